#include "their_headers.hpp"

#define min(a, b) this_is_a_macro((a) < (b) ? (a) : (b))
#define max(a, b) this_is_a_macro((a) < (b) ? (b) : (a))
#include "all_headers.hpp"

#if !defined(min) || !defined(max)
#error "a header took the macros of others away"
#endif

int main() {
  const float numbers[6] = {1, 2, 3, 4, 5, 6};
  return moxie::MatrixView<const float>{numbers, 2, 3}(1, 2) == 6 ? 0 : 1;
}

#include "hand_over.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <vector>

#include "moxie/core/error.hpp"
#include "moxie/runtime/unknown_name.hpp"

namespace vmoe {

void hand_over(const std::string& backend, char** arguments) {
  namespace fs = std::filesystem;
  const std::vector<std::string> names{"cpu", "cuda"};
  if (backend != names[0] && backend != names[1])
    moxie::throw_unknown_name("vmoe", "backend", backend, names);
  std::error_code error;
  fs::path own = fs::read_symlink("/proc/self/exe", error);
  if (error) own = fs::absolute(arguments[0], error);
  const fs::path program = own.parent_path() / (backend == "cpu" ? "vmoe" : "vmoe_cuda");
  if (!fs::exists(program, error)) {
    const char* how = backend == "cpu" ? "build the target vmoe"
                                       : "it is built where CUDA's nvcc is, with -DMOXIE_CUDA=ON "
                                         "(target vmoe_cuda)";
    moxie::throw_config("vmoe: backend is '", backend, "', but there is no '", program.string(),
                        "': ", how);
  }
  std::fflush(stdout);
  std::string path = program.string();
  arguments[0] = path.data();
  ::execv(path.c_str(), arguments);
  moxie::throw_io("vmoe: cannot run '", path, "': ", std::generic_category().message(errno));
}

}  // namespace vmoe

#include <moxie/moxie.hpp>

#pragma once

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace moxie::test {

/// One of the golden vectors in tests/conformance/vectors, by its name. Link
/// nlohmann_json::nlohmann_json.
inline nlohmann::json read_vector(const std::string& name) {
  std::filesystem::path path(MOXIE_TEST_SOURCE_DIR "/tests/conformance/vectors");
  path /= name;
  path += ".json";
  std::ifstream file(path);
  REQUIRE_MESSAGE(file, "no vector " << name);
  return nlohmann::json::parse(file);
}

/// The numbers of an array of any depth, in order.
template <class T>
std::vector<T> flat(const nlohmann::json& j) {
  if (!j.is_array()) return {j.get<T>()};
  std::vector<T> out;
  for (const nlohmann::json& part : j)
    for (const T& v : flat<T>(part)) out.push_back(v);
  return out;
}

}  // namespace moxie::test

#include "moxie/io/safetensors.hpp"

#include <random>

#include "io/folder.hpp"

namespace safetensors_test {

namespace {

using moxie::Safetensors;
using moxie::TensorToWrite;
using moxie::test::Folder;
using moxie::test::read_file;
using moxie::test::write_file;

/// A file from a header and as many bytes of data as said.
std::string file_of(const std::string& header, std::size_t data) {
  const std::uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + header + std::string(data, 'x');
}

std::string entry(const std::string& name, const std::string& type, const std::string& shape,
                  const std::string& place) {
  return "\"" + name + "\":{\"dtype\":\"" + type + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + place + "}";
}

/// The message of the error of reading such a file; empty if there was none.
std::string error_of(const std::string& content) {
  const Folder folder;
  write_file(folder / "f", content);
  try {
    Safetensors::read(folder / "f");
  } catch (const moxie::io_error& e) {
    return e.what();
  }
  return {};
}

bool contains(const std::string& text, const std::string& part) {
  const bool found = text.find(part) != std::string::npos;
  if (!found) MESSAGE(text);
  return found;
}

/// A small file with all that the format has.
std::string small_file() {
  const Folder folder;
  const std::vector<float> a = {1, 2, 3};
  const std::vector<std::uint8_t> b = {7};
  const std::vector<TensorToWrite> tensors = {TensorToWrite::of("a", {3}, a.data()),
                                              TensorToWrite::of("b", {}, b.data())};
  moxie::write_safetensors(folder / "f", tensors, {{"k", "v"}});
  return read_file(folder / "f");
}

}  // namespace

TEST_CASE("Safetensors returns the bits of every tensor that was written") {
  const Folder folder;
  const std::vector<float> f = {1.5F,
                                -0.0F,
                                std::numeric_limits<float>::infinity(),
                                std::nanf("7"),
                                std::numeric_limits<float>::denorm_min(),
                                3e38F};
  const std::vector<double> d = {0.1, std::nan("12"), -1e300};
  const std::vector<std::int64_t> l = {-1, (std::numeric_limits<std::int64_t>::max)()};
  const std::vector<std::int32_t> i = {-7};
  const std::vector<std::uint8_t> u = {0, 255, 3};
  const std::vector<TensorToWrite> tensors = {
      TensorToWrite::of("bytes", {3, 1}, u.data()),
      TensorToWrite::of("f/\"kernel\"\\ \n\t\x01 \xc3\xa4 \xf0\x9f\x90\xad", {2, 3}, f.data()),
      TensorToWrite::of("none", {4, 0, 2}, static_cast<const float*>(nullptr)),
      TensorToWrite::of("int", {}, i.data()),
      TensorToWrite::of("d", {1, 3, 1}, d.data()),
      TensorToWrite::of("", {2}, l.data())};
  const moxie::Metadata metadata = {{"config", "{\"a\": [1, 2]}\n"}, {"\xe2\x82\xac", ""}};
  moxie::write_safetensors(folder / "t", tensors, metadata);
  CHECK(folder.files() == 1);

  const Safetensors file = Safetensors::read(folder / "t");
  CHECK(file.metadata() == metadata);
  CHECK(Safetensors::read_metadata(folder / "t") == metadata);
  REQUIRE(file.tensors().size() == tensors.size());
  for (const TensorToWrite& t : tensors) {
    const moxie::StoredTensor* stored = file.find(t.name);
    REQUIRE(stored != nullptr);
    CHECK(stored->type == t.type);
    CHECK(stored->shape == t.shape);
    const auto bytes = file.bytes(*stored);
    CHECK((bytes.empty() || std::memcmp(bytes.data(), t.data, bytes.size()) == 0));
    CHECK(stored->begin % moxie::size_of(t.type) == 0);
  }
  CHECK(file.values<std::int64_t>(*file.find("")) == l);
  CHECK(file.values<std::int32_t>(*file.find("int")) == i);
  CHECK(file.values<float>(*file.find("none")).empty());
  CHECK(file.find("nobody") == nullptr);
  CHECK_THROWS_AS(file.values<float>(*file.find("d")), moxie::io_error);
}

TEST_CASE("Safetensors writes what the format prescribes") {
  const Folder folder;
  const float value = 1;
  const std::vector<TensorToWrite> tensors = {TensorToWrite::of("a/b", {1, 1}, &value)};
  moxie::write_safetensors(folder / "f", tensors, {{"k", "\"v\""}});
  const std::string file = read_file(folder / "f");
  std::string header =
      R"({"__metadata__":{"k":"\"v\""},"a/b":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  CHECK(file == file_of(header, 0) + std::string("\0\0\x80\x3f", 4));

  moxie::write_safetensors(folder / "empty", {});
  CHECK(read_file(folder / "empty") == file_of("{}      ", 0));
  CHECK(Safetensors::read(folder / "empty").tensors().empty());
}

TEST_CASE("Safetensors reads files of other writers") {
  // Blanks, tensors in another order than their bytes, keys in another order, escapes.
  const std::string header =
      "{ \"b\" : {\"data_offsets\": [4 , 8],\n\t\"shape\" : [ 1 ], \"dtype\" : \"I32\"},"
      "\"\\u0061\\/\\u20AC\\ud83d\\udc2d\":{\"dtype\":\"U8\",\"shape\":[2,2],\"data_offsets\":[0,"
      "4]}, \"__metadata__\" : { } }\r\n  ";
  const Folder folder;
  write_file(folder / "f", file_of(header, 8));
  const Safetensors file = Safetensors::read(folder / "f");
  CHECK(file.tensors().front().name == "a/\xe2\x82\xac\xf0\x9f\x90\xad");
  CHECK(file.tensors().back().shape == std::vector<moxie::Index>{1});
}

TEST_CASE("Safetensors says what is wrong with a file") {
  const std::string a = entry("a", "U8", "[4]", "[0,4]");
  const auto of = [](const std::string& entries, std::size_t data) {
    return error_of(file_of("{" + entries + "}", data));
  };
  CHECK(error_of(file_of("{" + a + "}", 4)).empty());

  CHECK(contains(error_of(""), "has 0 bytes, expected at least the 8"));
  CHECK(contains(error_of("1234567"), "has 7 bytes"));
  CHECK(contains(error_of(file_of("{}", 0).substr(0, 9)),
                 "the header's length is 2, expected at most 1"));
  CHECK(contains(error_of(std::string(16, '\xff')), "no safetensors file?"));
  CHECK(contains(error_of(file_of("", 3)), "byte 0 of the header: expected '{'"));
  CHECK(contains(error_of(file_of(" {}", 0)), "expected '{'"));
  CHECK(contains(error_of(file_of("{} x", 0)), "expected nothing but blanks"));
  CHECK(contains(error_of(file_of("{}", 3)), "3 bytes of data, expected 0"));
  CHECK(contains(of(a + "," + a, 4), "tensor 'a': the name comes twice"));
  CHECK(contains(of(a + ",", 4), "expected '\"'"));
  CHECK(contains(of(a, 3), "tensor 'a': data_offsets are [0, 4], expected a range in [0, 3]"));
  CHECK(contains(of(entry("a", "U8", "[4]", "[4,0]"), 4), "data_offsets are [4, 0]"));
  CHECK(contains(of(entry("a", "BF16", "[2]", "[0,4]"), 4),
                 "tensor 'a': dtype 'BF16', expected one of U8, I32, I64, F32, F64"));
  CHECK(contains(of(entry("a", "F32", "[2]", "[0,4]"), 4),
                 "tensor 'a': shape [2] is larger than the file"));
  CHECK(contains(of(entry("a", "U8", "[3]", "[0,4]"), 4),
                 "tensor 'a': has 4 bytes, expected 3 for U8 [3]"));
  CHECK(contains(of(entry("a", "F64", "[4294967296,4294967296,4294967296]", "[0,0]"), 0),
                 "is larger than the file"));
  CHECK(of(entry("a", "F64", "[9223372036854775807,9223372036854775807,0]", "[0,0]"), 0).empty());
  CHECK(contains(of(a + "," + entry("b", "U8", "[4]", "[2,6]"), 6),
                 "tensor 'b': begins at byte 2, expected 4"));
  CHECK(contains(of(a + "," + entry("b", "U8", "[4]", "[5,9]"), 9), "begins at byte 5"));
  CHECK(contains(of(a, 5), "5 bytes of data, expected 4, which the tensors fill"));
  CHECK(contains(of("\"a\":{\"dtype\":\"U8\",\"shape\":[4]}", 4), "expected all of dtype"));
  CHECK(contains(of("\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}", 4), "comes twice"));
  CHECK(contains(of("\"a\":{\"color\":1}", 4), "'color' is unknown"));
  CHECK(contains(of("\"a\":{}", 4), "expected '\"'"));
  CHECK(contains(of("\"__metadata__\":{\"k\":1}", 0), "expected '\"'"));
  CHECK(contains(of("\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}", 0), "'k' comes twice"));
  CHECK(contains(of("\"__metadata__\":{},\"__metadata__\":{}", 0), "comes twice"));
  for (const std::string number : {"-1", "1.0", "1e2", "01", "+1", "", "0x1", "null", "\"1\"",
                                   "9223372036854775808", "99999999999999999999999"})
    CHECK_FALSE(of(entry("a", "U8", "[" + number + ",1]", "[0,1]"), 1).empty());
  for (const std::string text :
       {"\\x", "\\u12", "\\ud800", "\\udc00", "\\ud800\\u0041", "\xff", "\xc3", "\xc0\x80",
        "\xed\xa0\x80", "\xf4\x90\x80\x80", "a\nb", "\\"})
    CHECK_FALSE(of("\"__metadata__\":{\"k\":\"" + text + "\"}", 0).empty());

  const Folder folder;
  CHECK_THROWS_AS(Safetensors::read(folder / "nothing"), moxie::io_error);
  CHECK_THROWS_AS(Safetensors::read(folder.path()), moxie::io_error);
  CHECK_THROWS_AS(Safetensors::read("/dev/zero"), moxie::io_error);
}

TEST_CASE("Safetensors gives an io_error for a file cut off anywhere") {
  const std::string file = small_file();
  CHECK(error_of(file).empty());
  for (std::size_t n = 0; n < file.size(); ++n) {
    CAPTURE(n);
    CHECK_FALSE(error_of(file.substr(0, n)).empty());
  }
  CHECK_FALSE(error_of(file + "x").empty());
}

TEST_CASE("Safetensors survives every damaged byte") {
  const Folder folder;
  const std::string good = small_file();
  const auto survives = [&](const std::string& bad) {
    write_file(folder / "f", bad);
    try {
      const Safetensors file = Safetensors::read(folder / "f");
      for (const moxie::StoredTensor& t : file.tensors())
        CHECK(file.bytes(t).size() == static_cast<std::size_t>(t.size()) * moxie::size_of(t.type));
    } catch (const moxie::io_error&) {  // as good an answer
    }
  };
  for (std::size_t at = 0; at < good.size(); ++at)
    for (unsigned bit = 0; bit < 8; ++bit) {
      std::string bad = good;
      bad[at] = static_cast<char>(static_cast<unsigned char>(bad[at]) ^ (1U << bit));
      survives(bad);
    }
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    std::string bad = good;
    for (unsigned n = random() % 8 + 1; n > 0; --n)
      bad[random() % bad.size()] = static_cast<char>(random());
    survives(bad);
  }
}

TEST_CASE("write_safetensors refuses names and shapes that cannot be read back") {
  const Folder folder;
  const float value = 1;
  const auto write = [&](const std::string& name, const std::vector<moxie::Index>& shape,
                         const moxie::Metadata& metadata = {}) {
    const std::vector<TensorToWrite> tensors = {TensorToWrite::of("a", {}, &value),
                                                TensorToWrite::of(name, shape, &value)};
    moxie::write_safetensors(folder / "f", tensors, metadata);
  };
  CHECK_THROWS_WITH_AS(write("a", {}), "moxie::write_safetensors: the name 'a' comes twice",
                       moxie::config_error);
  CHECK_THROWS_AS(write("__metadata__", {}), moxie::config_error);
  CHECK_THROWS_AS(write("\xff", {}), moxie::config_error);
  CHECK_THROWS_AS(write("b", {-1}), moxie::config_error);
  CHECK_THROWS_AS(write("b", {}, {{"k", "\xff"}}), moxie::config_error);
  CHECK(folder.files() == 0);
}

}  // namespace safetensors_test

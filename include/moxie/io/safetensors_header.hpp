#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "moxie/core/error.hpp"
#include "moxie/core/view.hpp"

namespace moxie {

/// What a tensor of a file consists of.
enum class TensorType { u8, i32, i64, f32, f64 };

/// As the file format calls it: "F32".
constexpr std::string_view name_of(TensorType type) {
  switch (type) {
    case TensorType::u8:
      return "U8";
    case TensorType::i32:
      return "I32";
    case TensorType::i64:
      return "I64";
    case TensorType::f32:
      return "F32";
    case TensorType::f64:
      return "F64";
  }
  return "";
}
constexpr std::size_t size_of(TensorType type) {
  if (type == TensorType::u8) return 1;
  return type == TensorType::i32 || type == TensorType::f32 ? 4 : 8;
}

/// Free text that goes with the tensors of a file: key and value, UTF-8.
using Metadata = std::map<std::string, std::string>;

/// A tensor of a file: what it is called and where its bytes lie behind the header.
struct StoredTensor {
  std::string name;
  TensorType type = TensorType::f32;
  std::vector<Index> shape;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;

  Index size() const noexcept { return static_cast<Index>((end - begin) / size_of(type)); }
};

/// "[3 x 4]"; "[]" for a scalar.
inline std::string shape_text(const std::vector<Index>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i)
    text.append(i > 0 ? " x " : "").append(std::to_string(shape[i]));
  return text + "]";
}

namespace detail {

struct SafetensorsHeader {
  std::vector<StoredTensor> tensors;  // in the order of their bytes
  Metadata metadata;
};

/// Whether the text is UTF-8: no stray or missing continuation, no overlong form, no surrogate,
/// nothing past U+10FFFF.
inline bool is_utf8(std::string_view text) {
  std::size_t i = 0;
  while (i < text.size()) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const std::size_t more = lead < 0x80   ? 0U
                             : lead < 0xC0 ? 9U
                             : lead < 0xE0 ? 1U
                             : lead < 0xF0 ? 2U
                             : lead < 0xF8 ? 3U
                                           : 9U;
    if (more > 3 || text.size() - i <= more) return false;
    std::uint32_t code = more == 0 ? lead : lead & (0x3FU >> more);
    for (std::size_t k = 1; k <= more; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      if ((next & 0xC0U) != 0x80U) return false;
      code = (code << 6U) | (next & 0x3FU);
    }
    constexpr std::uint32_t least[] = {0, 0x80, 0x800, 0x10000};
    if (code < least[more] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return false;
    i += more + 1;
  }
  return true;
}

/// Reads the header: one JSON object of the shape that the format prescribes, and no other JSON.
/// Nothing recurses, and no number of the file is used before it is checked, so bytes of any kind
/// end in a header or an io_error.
class SafetensorsParser {
 public:
  /// `data_size`: bytes behind the header, which the tensors must fill without gap or overlap.
  SafetensorsParser(std::string_view file, std::string_view text, std::uint64_t data_size)
      : file_(file), text_(text), data_size_(data_size) {}

  SafetensorsHeader parse() {
    if (!text_.starts_with('{')) fail("expected '{'");
    ++at_;
    bool has_metadata = false;
    if (!take('}')) {
      do {
        const std::string name = string();
        expect(':');
        if (name == "__metadata__") {
          if (std::exchange(has_metadata, true)) fail("'__metadata__' comes twice");
          metadata();
        } else {
          tensor(name);
        }
      } while (take(','));
      expect('}');
    }
    skip_blanks();
    if (at_ != text_.size()) fail("expected nothing but blanks after the closing brace");
    check_names();
    check_places();
    return std::move(header_);
  }

 private:
  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw_io("moxie::Safetensors: '", file_, "': byte ", at_, " of the header: ", parts...);
  }
  template <class... Parts>
  [[noreturn]] void fail_tensor(std::string_view name, const Parts&... parts) const {
    throw_io("moxie::Safetensors: '", file_, "': tensor '", name, "': ", parts...);
  }

  void skip_blanks() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t'))
      ++at_;
  }
  bool take(char c) {
    skip_blanks();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!take(c)) fail("expected '", c, "'");
  }

  std::uint32_t hex4() {
    if (text_.size() - at_ < 4) fail("expected four hexadecimal digits");
    std::uint32_t value = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = text_[at_++];
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) fail("expected four hexadecimal digits");
      value = value * 16 + static_cast<std::uint32_t>(digit);
    }
    return value;
  }
  std::uint32_t code_point() {
    const std::uint32_t high = hex4();
    if (high < 0xD800 || high >= 0xE000) return high;
    if (high >= 0xDC00 || text_.substr(at_, 2) != "\\u") fail("half a surrogate pair");
    at_ += 2;
    const std::uint32_t low = hex4();
    if (low < 0xDC00 || low >= 0xE000) fail("half a surrogate pair");
    return 0x10000 + ((high - 0xD800) << 10U) + (low - 0xDC00);
  }
  static void append_utf8(std::string& out, std::uint32_t code) {
    const auto tail = [&](unsigned shift) {
      out += static_cast<char>(0x80U | ((code >> shift) & 0x3FU));
    };
    if (code < 0x80) {
      out += static_cast<char>(code);
    } else if (code < 0x800) {
      out += static_cast<char>(0xC0U | (code >> 6U));
      tail(0);
    } else if (code < 0x10000) {
      out += static_cast<char>(0xE0U | (code >> 12U));
      tail(6);
      tail(0);
    } else {
      out += static_cast<char>(0xF0U | (code >> 18U));
      tail(12);
      tail(6);
      tail(0);
    }
  }
  std::string string() {
    expect('"');
    std::string out;
    for (;;) {
      if (at_ >= text_.size()) fail("expected '\"'");
      const char c = text_[at_++];
      if (c == '"') break;
      if (static_cast<unsigned char>(c) < 0x20) fail("a control character inside a string");
      if (c != '\\') {
        out += c;
        continue;
      }
      if (at_ >= text_.size()) fail("expected an escape");
      const char escape = text_[at_++];
      constexpr std::string_view letters = "\"\\/bfnrt";
      constexpr std::string_view meaning = "\"\\/\b\f\n\r\t";
      const std::size_t known = letters.find(escape);
      if (known != std::string_view::npos) {
        out += meaning[known];
      } else if (escape == 'u') {
        append_utf8(out, code_point());
      } else {
        fail("there is no such escape");
      }
    }
    if (!is_utf8(out)) fail("a string that is not UTF-8");
    return out;
  }
  std::uint64_t number() {
    skip_blanks();
    const std::size_t first = at_;
    constexpr auto most = static_cast<std::uint64_t>((std::numeric_limits<Index>::max)());
    std::uint64_t value = 0;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      const auto digit = static_cast<std::uint64_t>(text_[at_] - '0');
      if (value > (most - digit) / 10) fail("a number too large");
      value = value * 10 + digit;
    }
    if (at_ == first || (text_[first] == '0' && at_ > first + 1)) fail("expected a whole number");
    return value;
  }

  void metadata() {
    expect('{');
    if (take('}')) return;
    do {
      std::string key = string();
      expect(':');
      if (!header_.metadata.emplace(key, string()).second)
        fail("the key '", key, "' comes twice in '__metadata__'");
    } while (take(','));
    expect('}');
  }

  void tensor(const std::string& name) {
    StoredTensor t;
    t.name = name;
    bool has_type = false;
    bool has_shape = false;
    bool has_place = false;
    expect('{');
    do {
      const std::string key = string();
      expect(':');
      if (key == "dtype" && !std::exchange(has_type, true)) {
        t.type = type(name);
      } else if (key == "shape" && !std::exchange(has_shape, true)) {
        expect('[');
        if (!take(']')) {
          do t.shape.push_back(static_cast<Index>(number()));
          while (take(','));
          expect(']');
        }
      } else if (key == "data_offsets" && !std::exchange(has_place, true)) {
        expect('[');
        t.begin = number();
        expect(',');
        t.end = number();
        expect(']');
      } else {
        fail_tensor(name, "'", key,
                    "' is unknown or comes twice, expected dtype, shape, data_offsets");
      }
    } while (take(','));
    expect('}');
    if (!has_type || !has_shape || !has_place)
      fail_tensor(name, "expected all of dtype, shape, data_offsets");
    check_size(t);
    header_.tensors.push_back(std::move(t));
  }
  TensorType type(std::string_view tensor_name) {
    const std::string name = string();
    for (const TensorType t :
         {TensorType::u8, TensorType::i32, TensorType::i64, TensorType::f32, TensorType::f64})
      if (name == name_of(t)) return t;
    fail_tensor(tensor_name, "dtype '", name, "', expected one of U8, I32, I64, F32, F64");
  }
  void check_size(const StoredTensor& t) const {
    if (t.begin > t.end || t.end > data_size_)
      fail_tensor(t.name, "data_offsets are [", t.begin, ", ", t.end, "], expected a range in [0, ",
                  data_size_, "]: is the file cut off?");
    const bool empty = std::find(t.shape.begin(), t.shape.end(), 0) != t.shape.end();
    std::uint64_t bytes = empty ? 0 : size_of(t.type);
    for (const Index d : t.shape) {
      if (empty) break;
      if (bytes > data_size_ / static_cast<std::uint64_t>(d))
        fail_tensor(t.name, "shape ", shape_text(t.shape), " is larger than the file");
      bytes *= static_cast<std::uint64_t>(d);
    }
    if (t.end - t.begin != bytes)
      fail_tensor(t.name, "has ", t.end - t.begin, " bytes, expected ", bytes, " for ",
                  name_of(t.type), " ", shape_text(t.shape));
  }
  void check_names() {
    auto& all = header_.tensors;
    std::sort(all.begin(), all.end(),
              [](const StoredTensor& a, const StoredTensor& b) { return a.name < b.name; });
    for (std::size_t i = 1; i < all.size(); ++i)
      if (all[i].name == all[i - 1].name) fail_tensor(all[i].name, "the name comes twice");
  }
  void check_places() {
    auto& all = header_.tensors;
    std::sort(all.begin(), all.end(), [](const StoredTensor& a, const StoredTensor& b) {
      return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
    });
    std::uint64_t used = 0;
    for (const StoredTensor& t : all) {
      if (t.begin != used)
        fail_tensor(t.name, "begins at byte ", t.begin, ", expected ", used,
                    ": tensors follow each other without gap or overlap");
      used = t.end;
    }
    if (used != data_size_)
      throw_io("moxie::Safetensors: '", file_, "': ", data_size_, " bytes of data, expected ", used,
               ", which the tensors fill");
  }

  std::string_view file_, text_;
  std::uint64_t data_size_;
  std::size_t at_ = 0;
  SafetensorsHeader header_;
};

inline void append_json(std::string& out, std::string_view text) {
  constexpr char digits[] = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
    const auto code = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (code < 0x20) {
      out += "\\u00";
      out += digits[code >> 4U];
      out += digits[code & 15U];
    } else {
      out += c;
    }
  }
  out += '"';
}

/// The header as text, padded with blanks to a multiple of 8 bytes, so that the data is aligned in
/// the file.
inline std::string safetensors_header_text(const SafetensorsHeader& header) {
  std::string out = "{";
  if (!header.metadata.empty()) {
    out += "\"__metadata__\":{";
    for (const auto& [key, value] : header.metadata) {
      if (out.back() != '{') out += ',';
      append_json(out, key);
      out += ':';
      append_json(out, value);
    }
    out += '}';
  }
  for (const StoredTensor& t : header.tensors) {
    if (out.back() != '{') out += ',';
    append_json(out, t.name);
    out.append(":{\"dtype\":\"").append(name_of(t.type)).append("\",\"shape\":[");
    for (std::size_t i = 0; i < t.shape.size(); ++i)
      out.append(i > 0 ? "," : "").append(std::to_string(t.shape[i]));
    out.append("],\"data_offsets\":[").append(std::to_string(t.begin)).append(",");
    out.append(std::to_string(t.end)).append("]}");
  }
  out += '}';
  out.resize((out.size() + 7) / 8 * 8, ' ');
  return out;
}

}  // namespace detail

}  // namespace moxie

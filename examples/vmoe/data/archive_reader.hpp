#pragma once

#include <archive.h>
#include <archive_entry.h>

#include <memory>
#include <string>

#include "moxie/core/error.hpp"

namespace vmoe {

struct ArchiveClose {
  void operator()(archive* reader) const { archive_read_free(reader); }
};
/// A libarchive reader that frees itself.
using ArchiveReader = std::unique_ptr<archive, ArchiveClose>;

inline ArchiveReader make_archive_reader() {
  ArchiveReader reader(archive_read_new());
  if (!reader) moxie::throw_io("vmoe::load_dataset: libarchive gave no reader: out of memory");
  return reader;
}

/// What libarchive says about the last failure.
inline std::string archive_message(archive* reader) {
  const char* text = archive_error_string(reader);
  return text != nullptr ? text : "unknown error";
}

}  // namespace vmoe

// A file mapped read-only and shared, so that all processes of a host use one copy of a checkpoint's pages.
//
// A mapping cannot report an error: when somebody truncates the file, touching a lost page raises SIGBUS. The
// first mapping therefore installs a process-wide SIGBUS handler that recognises the mapped ranges, writes
// one line to stderr, "FILE: truncated while mapped: byte N of tensor T is gone; ...", and ends the process
// with kTruncatedExitStatus. It uses async-signal-safe calls only. A SIGBUS elsewhere goes to the handler
// that was there before. (Copying every page in order to get an ordinary error would cost the memory that
// mapping saves; a supervisor sees the distinct status.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace baton::checkpoint {

inline constexpr int kTruncatedExitStatus = 74;  // EX_IOERR of sysexits.h
inline constexpr size_t kMappedFilesMax = 1024;  // mapped at the same time in one process
inline constexpr uint64_t kMappedBytesMax = 1ULL << 44;

// A named part of a mapped file, for the message about a lost page: bytes [begin, end) of the file.
struct FileRegion {
  std::string name;
  uint64_t begin = 0;
  uint64_t end = 0;
};

// Owns the mapping; move-only. The bytes stay valid, at one address, until it is destroyed. Any thread may
// read.
class MappedFile {
 public:
  // Maps all of `path`. kNotFound if it does not exist, kIo if it cannot be read, kInvalid if it is not a
  // regular file, kExhausted beyond kMappedFilesMax. An empty file has empty bytes.
  static Result<MappedFile> open(const std::filesystem::path& path);

  MappedFile(MappedFile&&) noexcept;
  MappedFile& operator=(MappedFile&&) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const;
  const std::string& path() const;

  // kCorrupt if the file is no longer as long, or was written since it was mapped. A file cut within its last
  // page reads as zeros there and raises no SIGBUS; this finds it.
  Result<void> check_unchanged() const;

  // Maps all pages in now (MADV_POPULATE_READ) instead of at first touch. Best effort.
  void fault_in() const;

  // Tells the SIGBUS handler what lies where; `regions` ascend and do not overlap. At most once.
  void name_regions(std::vector<FileRegion> regions);

 private:
  struct Mapping;
  explicit MappedFile(std::unique_ptr<Mapping> mapping);

  std::unique_ptr<Mapping> mapping_;
};

// All of a small file as text. kInvalid if it is larger than `bytes_max`.
Result<std::string> read_text_file(const std::filesystem::path& path, size_t bytes_max);

}  // namespace baton::checkpoint

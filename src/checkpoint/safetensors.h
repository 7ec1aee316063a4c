// The safetensors format (https://github.com/huggingface/safetensors, README "Format"): 8 bytes little-endian
// N, N bytes of JSON {"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {...}}, then
// the data. Offsets count from the end of the header; the tensors cover the data without holes or overlaps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/result.h"
#include "checkpoint/mapped_file.h"

namespace baton::checkpoint {

inline constexpr uint64_t kHeaderBytesMax = 100'000'000;  // the format's own limit
inline constexpr size_t kDimensionsMax = 8;

// A tensor as the file has it, row-major, the last dimension contiguous. `bytes` point into a mapping and are
// little-endian; the format does not promise that they are aligned to their element.
struct Tensor {
  std::string name;
  DType dtype = DType::kBf16;
  std::vector<uint64_t> shape;  // empty for a scalar
  std::span<const std::byte> bytes;
};

// "[1024, 128]", as messages show a shape.
std::string shape_text(std::span<const uint64_t> shape);

// The tensors of `file`, in the order of their bytes. Everything is checked: lengths, JSON, dtypes, shape x
// dtype = size, holes, overlaps, the end of the file. kCorrupt names `file_name`, the tensor and the
// expectation.
Result<std::vector<Tensor>> parse_safetensors(std::span<const std::byte> file, std::string_view file_name);

// One safetensors file, mapped.
struct SafetensorsFile {
  MappedFile file;
  std::vector<Tensor> tensors;  // in the order of their bytes

  static Result<SafetensorsFile> open(const std::filesystem::path& path);

  // Nothing if the file has no tensor of that name.
  const Tensor* find(std::string_view name) const;
};

// What a tensor to be written looks like.
struct TensorSpec {
  std::string name;
  DType dtype = DType::kBf16;
  std::vector<uint64_t> shape;

  uint64_t bytes() const;
};

// Writes one safetensors file as a stream: the header at once, then the tensors' bytes in the order of the
// specs, in pieces of any size. Writes to PATH.partial and renames on finish(), so that a reader never sees
// half a file. Used by one thread.
class SafetensorsWriter {
 public:
  static Result<SafetensorsWriter> create(const std::filesystem::path& path,
                                          std::span<const TensorSpec> specs);

  SafetensorsWriter(SafetensorsWriter&&) noexcept;
  SafetensorsWriter& operator=(SafetensorsWriter&&) noexcept;
  ~SafetensorsWriter();  // removes the partial file if finish() was not called

  Result<void> append(std::span<const std::byte> bytes);
  // kInvalid unless exactly the promised bytes were appended.
  Result<void> finish();

 private:
  struct Stream;
  explicit SafetensorsWriter(std::unique_ptr<Stream> stream);

  std::unique_ptr<Stream> stream_;
};

}  // namespace baton::checkpoint

#include <fcntl.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "checkpoint/safetensors.h"

namespace baton::checkpoint {
namespace {

namespace json = boost::json;

constexpr size_t kDataAlignment = 64;  // of the first tensor; bf16 rows then start on cache lines

std::string_view dtype_text(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kF16:
      return "F16";
    case DType::kBf16:
      return "BF16";
    case DType::kI8:
      return "I8";
    case DType::kI32:
      return "I32";
    case DType::kI64:
      return "I64";
    case DType::kU8:
      return "U8";
    case DType::kBool:
      return "BOOL";
    case DType::kF8E4M3:
      return "F8_E4M3";
  }
  return "";
}

// The 8 bytes of length and the JSON, padded with spaces.
std::string header_of(std::span<const TensorSpec> specs) {
  json::object entries;
  entries["__metadata__"] = json::object{{"format", "pt"}};
  uint64_t offset = 0;
  for (const TensorSpec& spec : specs) {
    const uint64_t end = offset + spec.bytes();
    entries[spec.name] = json::object{{"dtype", dtype_text(spec.dtype)},
                                      {"shape", json::array(spec.shape.begin(), spec.shape.end())},
                                      {"data_offsets", json::array{offset, end}}};
    offset = end;
  }
  std::string text = json::serialize(entries);
  uint64_t length = text.size();
  while ((sizeof length + length) % kDataAlignment != 0) ++length;
  text.resize(length, ' ');
  std::string header(sizeof length, '\0');
  std::memcpy(header.data(), &length, sizeof length);
  return header + text;
}

}  // namespace

uint64_t TensorSpec::bytes() const {
  uint64_t bytes = size_of(dtype);
  for (const uint64_t dimension : shape) {
    CHECK(!__builtin_mul_overflow(bytes, dimension, &bytes), "{}: {} is too large", name, shape_text(shape));
  }
  return bytes;
}

struct SafetensorsWriter::Stream {
  std::filesystem::path path;
  std::filesystem::path partial;
  int fd = -1;
  uint64_t bytes_left = 0;

  ~Stream() {
    if (fd < 0) return;
    close(fd);
    unlink(partial.c_str());
  }

  Failure io_error() const {
    return fail(Code::kIo, fmt::format("{}: {}", partial.string(), std::strerror(errno)));
  }

  Result<void> write_all(const char* data, size_t size) const {
    while (size > 0) {
      const ssize_t n = write(fd, data, size);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return io_error();
      data += n;
      size -= static_cast<size_t>(n);
    }
    return {};
  }
};

SafetensorsWriter::SafetensorsWriter(std::unique_ptr<Stream> stream) : stream_(std::move(stream)) {}
SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter& SafetensorsWriter::operator=(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter::~SafetensorsWriter() = default;

Result<SafetensorsWriter> SafetensorsWriter::create(const std::filesystem::path& path,
                                                    std::span<const TensorSpec> specs) {
  auto stream = std::make_unique<Stream>();
  stream->path = path;
  stream->partial = path.string() + ".partial";
  stream->fd = ::open(stream->partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (stream->fd < 0) return stream->io_error();
  for (const TensorSpec& spec : specs) stream->bytes_left += spec.bytes();
  const std::string header = header_of(specs);
  TRY_DO(stream->write_all(header.data(), header.size()));
  return SafetensorsWriter(std::move(stream));
}

Result<void> SafetensorsWriter::append(std::span<const std::byte> bytes) {
  if (bytes.size() > stream_->bytes_left) {
    return fail(Code::kInvalid, fmt::format("{}: {} bytes appended, expected at most {}",
                                            stream_->path.string(), bytes.size(), stream_->bytes_left));
  }
  stream_->bytes_left -= bytes.size();
  return stream_->write_all(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

Result<void> SafetensorsWriter::finish() {
  if (stream_->bytes_left != 0) {
    return fail(Code::kInvalid, fmt::format("{}: finished with {} bytes of the promised ones missing",
                                            stream_->path.string(), stream_->bytes_left));
  }
  close(std::exchange(stream_->fd, -1));
  std::error_code error;
  std::filesystem::rename(stream_->partial, stream_->path, error);
  if (error)
    return fail(Code::kIo, fmt::format("{}: rename: {}", stream_->partial.string(), error.message()));
  return {};
}

}  // namespace baton::checkpoint

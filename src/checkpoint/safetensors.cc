#include "checkpoint/safetensors.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstring>
#include <optional>
#include <utility>

#include "base/check.h"

namespace baton::checkpoint {
namespace {

namespace json = boost::json;

struct DTypeName {
  std::string_view name;
  DType dtype;
};
constexpr DTypeName kDTypeNames[] = {
    {"F32", DType::kF32}, {"F16", DType::kF16},   {"BF16", DType::kBf16},
    {"I8", DType::kI8},   {"I32", DType::kI32},   {"I64", DType::kI64},
    {"U8", DType::kU8},   {"BOOL", DType::kBool}, {"F8_E4M3", DType::kF8E4M3}};
constexpr std::string_view kMetadataKey = "__metadata__";
constexpr size_t kNameShownMax = 200;

// A name out of a foreign file, cut and without control characters, fit for a message.
std::string shown(std::string_view name) {
  std::string text(name.substr(0, kNameShownMax));
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  }
  return text;
}

Failure corrupt(std::string_view file_name, std::string message) {
  return fail(Code::kCorrupt, fmt::format("{}: {}", file_name, message));
}

Failure corrupt_tensor(std::string_view file_name, std::string_view tensor, std::string message) {
  return fail(Code::kCorrupt, fmt::format("{}: tensor {}: {}", file_name, shown(tensor), message));
}

std::optional<uint64_t> as_unsigned(const json::value& value) {
  if (const int64_t* number = value.if_int64(); number != nullptr && *number >= 0) {
    return static_cast<uint64_t>(*number);
  }
  if (const uint64_t* number = value.if_uint64()) return *number;
  return std::nullopt;
}

// An array of non-negative integers; nothing if `value` is anything else.
std::optional<std::vector<uint64_t>> as_unsigned_array(const json::value* value) {
  if (value == nullptr || !value->is_array()) return std::nullopt;
  std::vector<uint64_t> numbers;
  for (const json::value& element : value->get_array()) {
    const auto number = as_unsigned(element);
    if (!number) return std::nullopt;
    numbers.push_back(*number);
  }
  return numbers;
}

std::optional<DType> dtype_named(std::string_view name) {
  for (const DTypeName& row : kDTypeNames) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

std::string known_dtypes() {
  std::vector<std::string_view> names;
  for (const DTypeName& row : kDTypeNames) names.push_back(row.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

// Bytes of a tensor; nothing on overflow.
std::optional<uint64_t> bytes_of(std::span<const uint64_t> shape, DType dtype) {
  uint64_t bytes = size_of(dtype);
  for (const uint64_t dimension : shape) {
    if (__builtin_mul_overflow(bytes, dimension, &bytes)) return std::nullopt;
  }
  return bytes;
}

struct Header {
  std::string_view json;
  std::span<const std::byte> data;
};

Result<Header> split(std::span<const std::byte> file, std::string_view file_name) {
  uint64_t length = 0;
  if (file.size() < sizeof length) {
    return corrupt(file_name,
                   fmt::format("{} bytes, expected at least the 8 of the header's length", file.size()));
  }
  std::memcpy(&length, file.data(), sizeof length);
  if (length > kHeaderBytesMax) {
    return corrupt(file_name,
                   fmt::format("header of {} bytes, expected at most {}", length, kHeaderBytesMax));
  }
  const auto rest = file.subspan(sizeof length);
  if (length > rest.size()) {
    return corrupt(file_name,
                   fmt::format("header of {} bytes, but only {} follow (truncated?)", length, rest.size()));
  }
  return Header{{reinterpret_cast<const char*>(rest.data()), length}, rest.subspan(length)};
}

// One entry of the header; `data` is what its offsets count in.
Result<Tensor> read_entry(std::string_view name, const json::value& entry, std::span<const std::byte> data,
                          std::string_view file_name) {
  const json::object* fields = entry.if_object();
  if (fields == nullptr)
    return corrupt_tensor(file_name, name, "expected an object of dtype, shape, data_offsets");
  const json::value* dtype_value = fields->if_contains("dtype");
  if (dtype_value == nullptr || !dtype_value->is_string()) {
    return corrupt_tensor(file_name, name, "dtype: expected a string");
  }
  const json::string& dtype_string = dtype_value->get_string();
  const auto dtype = dtype_named(dtype_string);
  if (!dtype) {
    return corrupt_tensor(file_name, name,
                          fmt::format("dtype {}: expected one of {}", shown(dtype_string), known_dtypes()));
  }
  auto shape = as_unsigned_array(fields->if_contains("shape"));
  if (!shape || shape->size() > kDimensionsMax) {
    return corrupt_tensor(file_name, name,
                          fmt::format("shape: expected at most {} non-negative integers", kDimensionsMax));
  }
  const auto offsets = as_unsigned_array(fields->if_contains("data_offsets"));
  if (!offsets || offsets->size() != 2) {
    return corrupt_tensor(file_name, name, "data_offsets: expected two non-negative integers");
  }
  const uint64_t begin = (*offsets)[0];
  const uint64_t end = (*offsets)[1];
  if (begin > end || end > data.size()) {
    return corrupt_tensor(
        file_name, name,
        fmt::format("data_offsets [{}, {}]: expected begin <= end <= {}, the bytes of data in the "
                    "file (truncated?)",
                    begin, end, data.size()));
  }
  const auto bytes = bytes_of(*shape, *dtype);
  if (!bytes || *bytes != end - begin) {
    return corrupt_tensor(
        file_name, name,
        fmt::format("data_offsets [{}, {}] hold {} bytes, expected {} for {} {}", begin, end, end - begin,
                    bytes ? fmt::format("{}", *bytes) : "a size that fits 64 bits",
                    std::string_view(dtype_string), shape_text(*shape)));
  }
  return Tensor{std::string(name), *dtype, *std::move(shape), data.subspan(begin, end - begin)};
}

// The tensors, sorted by offset, must cover the data exactly.
Result<void> check_coverage(const std::vector<Tensor>& tensors, std::span<const std::byte> data,
                            std::string_view file_name) {
  uint64_t covered = 0;
  for (const Tensor& tensor : tensors) {
    const auto begin = static_cast<uint64_t>(tensor.bytes.data() - data.data());
    if (begin < covered) {
      return corrupt_tensor(
          file_name, tensor.name,
          fmt::format("begins at byte {}, overlapping the tensor that ends at {}", begin, covered));
    }
    if (begin > covered) {
      return corrupt_tensor(
          file_name, tensor.name,
          fmt::format("begins at byte {}, expected {}: a hole that no tensor owns", begin, covered));
    }
    covered = begin + tensor.bytes.size();
  }
  if (covered != data.size()) {
    return corrupt(file_name,
                   fmt::format("{} bytes of data, but its tensors end at {}", data.size(), covered));
  }
  return {};
}

}  // namespace

std::string shape_text(std::span<const uint64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

Result<std::vector<Tensor>> parse_safetensors(std::span<const std::byte> file, std::string_view file_name) {
  TRY(const Header header, split(file, file_name));
  boost::system::error_code error;
  json::monotonic_resource memory;
  const json::value document = json::parse(header.json, error, &memory);
  if (error) return corrupt(file_name, fmt::format("header: not valid JSON: {}", error.message()));
  const json::object* entries = document.if_object();
  if (entries == nullptr) return corrupt(file_name, "header: expected a JSON object");

  std::vector<Tensor> tensors;
  tensors.reserve(entries->size());
  for (const auto& [name, entry] : *entries) {
    if (std::string_view(name) == kMetadataKey) {
      if (!entry.is_object()) return corrupt(file_name, "header: __metadata__: expected an object");
      continue;
    }
    TRY(Tensor tensor, read_entry(name, entry, header.data, file_name));
    tensors.push_back(std::move(tensor));
  }
  std::ranges::sort(tensors, [](const Tensor& a, const Tensor& b) {
    if (a.bytes.data() != b.bytes.data()) return a.bytes.data() < b.bytes.data();
    if (a.bytes.size() != b.bytes.size()) return a.bytes.size() < b.bytes.size();
    return a.name < b.name;
  });
  TRY_DO(check_coverage(tensors, header.data, file_name));
  return tensors;
}

Result<SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
  TRY(MappedFile file, MappedFile::open(path));
  TRY(std::vector<Tensor> tensors, parse_safetensors(file.bytes(), path.string()));
  std::vector<FileRegion> regions;
  regions.reserve(tensors.size());
  for (const Tensor& tensor : tensors) {
    if (tensor.bytes.empty()) continue;
    const auto begin = static_cast<uint64_t>(tensor.bytes.data() - file.bytes().data());
    regions.push_back({shown(tensor.name), begin, begin + tensor.bytes.size()});
  }
  file.name_regions(std::move(regions));
  return SafetensorsFile{std::move(file), std::move(tensors)};
}

const Tensor* SafetensorsFile::find(std::string_view name) const {
  const auto it = std::ranges::find(tensors, name, &Tensor::name);
  return it == tensors.end() ? nullptr : &*it;
}

}  // namespace baton::checkpoint

#include "checkpoint/safetensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <string>

#include "checkpoint/testing.h"

namespace baton::checkpoint {
namespace {

// A file of this header and this many bytes of data.
std::string file_of(std::string_view header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string file(sizeof length, '\0');
  std::memcpy(file.data(), &length, sizeof length);
  return file + std::string(header) + std::string(data_bytes, '\1');
}

Result<std::vector<Tensor>> parse(const std::string& file) {
  return parse_safetensors(std::as_bytes(std::span(file)), "x.safetensors");
}

TEST(Safetensors, ReadsNamesTypesShapesAndBytesInTheirOrder) {
  const std::string file = file_of(
      R"({"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},"__metadata__":{"format":"pt"},)"
      R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"none":{"dtype":"F32","shape":[0],"data_offsets":[16,16]}}  )",
      16);
  const auto tensors = parse(file);
  ASSERT_TRUE(tensors.has_value()) << tensors.error().message;
  ASSERT_EQ(tensors->size(), 3U);
  EXPECT_EQ((*tensors)[0].name, "a");
  EXPECT_EQ((*tensors)[1].dtype, DType::kBf16);
  EXPECT_EQ((*tensors)[1].shape, (std::vector<uint64_t>{2, 3}));
  EXPECT_EQ((*tensors)[1].bytes.data(), reinterpret_cast<const std::byte*>(file.data()) + file.size() - 12);
}

TEST(Safetensors, EveryLieIsNamed) {
  struct Row {
    const char* header;
    size_t data_bytes;
    const char* message;
  };
  const Row rows[] = {
      {"[]", 0, "header: expected a JSON object"},
      {"{\"a\":", 0, "header: not valid JSON"},
      {R"({"a":1})", 0, "tensor a: expected an object"},
      {R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4, "tensor a: dtype: expected a string"},
      {R"({"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}})", 4,
       "tensor a: dtype F33: expected one of F32"},
      {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "tensor a: shape: expected"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, "tensor a: data_offsets: expected two"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4,
       "data_offsets [4, 0]: expected begin <= end"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4, "<= 4, the bytes of data in the file"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4,
       "hold 4 bytes, expected 8 for F32 [2]"},
      {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
       "a size that fits 64 bits"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8,
       "begins at byte 4, expected 0: a hole"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 8,
       "8 bytes of data, but its tensors end at 4"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})",
       6, "tensor b: begins at byte 2, overlapping the tensor that ends at 4"},
      {R"({"__metadata__":3})", 0, "__metadata__: expected an object"},
  };
  for (const Row& row : rows) {
    const auto tensors = parse(file_of(row.header, row.data_bytes));
    ASSERT_FALSE(tensors.has_value()) << row.header;
    EXPECT_EQ(tensors.error().code, Code::kCorrupt);
    EXPECT_NE(tensors.error().message.find(row.message), std::string::npos) << tensors.error().message;
    EXPECT_TRUE(tensors.error().message.starts_with("x.safetensors: ")) << tensors.error().message;
  }
}

TEST(Safetensors, NoTruncatedFileIsTaken) {
  const std::string file = file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8);
  ASSERT_TRUE(parse(file).has_value());
  for (size_t size = 0; size < file.size(); ++size)
    EXPECT_FALSE(parse(file.substr(0, size)).has_value()) << size;
  std::string huge = file;
  std::memset(huge.data(), 0x7F, 8);
  EXPECT_NE(parse(huge).error().message.find("expected at most 100000000"), std::string::npos);
}

TEST(SafetensorsWriter, WritesWhatTheReaderReads) {
  const TemporaryDirectory directory;
  const auto path = directory.path() / "w.safetensors";
  const std::vector<TensorSpec> specs = {{"b", DType::kBf16, {2, 2}}, {"a", DType::kF32, {1}}};
  const std::string data = "0123456789ab";
  {
    auto writer = SafetensorsWriter::create(path, specs);
    ASSERT_TRUE(writer.has_value()) << writer.error().message;
    EXPECT_TRUE(writer->append(std::as_bytes(std::span(data).first(5))).has_value());
    EXPECT_EQ(writer->finish().error().code, Code::kInvalid);
    EXPECT_FALSE(std::filesystem::exists(path));
    EXPECT_TRUE(writer->append(std::as_bytes(std::span(data).subspan(5))).has_value());
    EXPECT_EQ(writer->append(std::as_bytes(std::span(data).first(1))).error().code, Code::kInvalid);
    EXPECT_TRUE(writer->finish().has_value());
  }
  const auto file = SafetensorsFile::open(path);
  ASSERT_TRUE(file.has_value()) << file.error().message;
  const Tensor* a = file->find("a");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(std::memcmp(a->bytes.data(), "89ab", 4), 0);
  EXPECT_EQ(file->find("c"), nullptr);
}

TEST(SafetensorsWriter, LeavesNoHalfFileBehind) {
  const TemporaryDirectory directory;
  const std::vector<TensorSpec> specs = {{"a", DType::kF32, {1}}};
  {
    const auto writer = SafetensorsWriter::create(directory.path() / "w.safetensors", specs);
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

// A file of one tensor of 8 pages.
std::filesystem::path write_pages(const TemporaryDirectory& directory) {
  const auto path = directory.path() / "model.safetensors";
  const std::vector<TensorSpec> specs = {{"first", DType::kU8, {100}},
                                         {"model.weight", DType::kU8, {8 * 4096}}};
  auto writer = SafetensorsWriter::create(path, specs);
  const std::string data(100 + 8 * 4096, 'x');
  EXPECT_TRUE(writer && writer->append(std::as_bytes(std::span(data))) && writer->finish());
  return path;
}

TEST(MappedFileDeathTest, TruncationWhileMappedEndsTheProcessWithFileTensorAndExpectation) {
  const TemporaryDirectory directory;
  const auto path = write_pages(directory);
  EXPECT_EXIT(
      {
        const auto file = SafetensorsFile::open(path);
        if (!file || truncate(path.c_str(), 4096) != 0) _exit(1);
        volatile uint64_t sum = 0;
        for (const std::byte byte : file->find("model.weight")->bytes)
          sum = sum + static_cast<uint64_t>(byte);
        _exit(2);
      },
      testing::ExitedWithCode(kTruncatedExitStatus),
      "model.safetensors: truncated while mapped: byte 4096 of tensor model.weight .* is gone; expected a "
      "file of "
      "[0-9]+ bytes");
}

TEST(MappedFileDeathTest, OtherBusErrorsGoToWhoeverHandledThemBefore) {
  const TemporaryDirectory directory;
  const auto path = write_pages(directory);
  EXPECT_DEATH(
      {
        const auto file = MappedFile::open(path);
        raise(SIGBUS);
      },
      "");
}

TEST(MappedFile, SaysWhenTheFileChangedSinceItWasMapped) {
  const TemporaryDirectory directory;
  const auto path = write_pages(directory);
  const auto file = MappedFile::open(path);
  ASSERT_TRUE(file.has_value());
  EXPECT_TRUE(file->check_unchanged().has_value());
  ASSERT_EQ(truncate(path.c_str(), 8 * 4096), 0);
  EXPECT_EQ(file->check_unchanged().error().code, Code::kCorrupt);
}

TEST(MappedFile, ErrorsNameTheFile) {
  EXPECT_EQ(MappedFile::open("/nowhere/x").error().code, Code::kNotFound);
  EXPECT_EQ(MappedFile::open("/proc").error().code, Code::kInvalid);
  EXPECT_EQ(read_text_file("/proc/self/nothing", 10).error().code, Code::kNotFound);
}

}  // namespace
}  // namespace baton::checkpoint

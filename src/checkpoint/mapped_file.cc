#include "checkpoint/mapped_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <utility>

#include "base/check.h"

namespace baton::checkpoint {

struct MappedFile::Mapping {
  std::string path;
  const std::byte* data = nullptr;
  size_t size = 0;
  std::vector<FileRegion> regions;
  int slot = -1;  // in `slots`, -1 for an empty file
  int fd = -1;    // kept for check_unchanged()
  timespec written{};

  ~Mapping();
};

namespace {

// What the SIGBUS handler reads. A slot is in use while `begin` is not 0; it is written before that and its
// pointers stay valid until the mapping ends, which nobody may do while others still read the mapping.
struct Slot {
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};
  std::atomic<const char*> path{nullptr};
  std::atomic<const FileRegion*> regions{nullptr};
  std::atomic<size_t> region_count{0};
};

std::array<Slot, kMappedFilesMax> slots;
std::mutex slots_mutex;  // taking and giving back slots; never taken by the handler
struct sigaction previous_action{};

// A line built without the heap: the handler may run in the middle of malloc.
class SignalSafeLine {
 public:
  void add(const char* text) {
    while (*text != '\0' && used_ < line_.size()) line_[used_++] = *text++;
  }
  void add(uint64_t number) {
    std::array<char, 20> digits{};
    size_t count = 0;
    do {
      digits[count++] = static_cast<char>('0' + number % 10);
      number /= 10;
    } while (number != 0);
    while (count > 0 && used_ < line_.size()) line_[used_++] = digits[--count];
  }
  void write_to_stderr() const {
    [[maybe_unused]] const ssize_t n = write(STDERR_FILENO, line_.data(), used_);
  }

 private:
  std::array<char, 4096> line_{};
  size_t used_ = 0;
};

const FileRegion* region_at(const Slot& slot, uint64_t offset) {
  const FileRegion* regions = slot.regions.load(std::memory_order_acquire);
  size_t low = 0;
  size_t high = slot.region_count.load(std::memory_order_acquire);
  while (low < high) {
    const size_t middle = low + (high - low) / 2;
    if (regions[middle].end <= offset) {
      low = middle + 1;
    } else if (regions[middle].begin > offset) {
      high = middle;
    } else {
      return &regions[middle];
    }
  }
  return nullptr;
}

[[noreturn]] void report_truncation(const Slot& slot, uint64_t offset) {
  static std::atomic<bool> reported{false};
  if (reported.exchange(true)) {
    while (true) pause();  // another thread writes the one message and ends the process
  }
  SignalSafeLine line;
  line.add(slot.path.load(std::memory_order_acquire));
  line.add(": truncated while mapped: byte ");
  line.add(offset);
  if (const FileRegion* region = region_at(slot, offset)) {
    line.add(" of tensor ");
    line.add(region->name.c_str());
    line.add(" (bytes ");
    line.add(region->begin);
    line.add(" to ");
    line.add(region->end);
    line.add(")");
  }
  line.add(" is gone; expected a file of ");
  line.add(slot.end.load(std::memory_order_acquire) - slot.begin.load(std::memory_order_acquire));
  line.add(" bytes that does not shrink while it is served\n");
  line.write_to_stderr();
  _exit(kTruncatedExitStatus);
}

void on_sigbus(int signal, siginfo_t* info, void* context) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (const Slot& slot : slots) {
    const uintptr_t begin = slot.begin.load(std::memory_order_acquire);
    if (begin == 0 || address < begin || address >= slot.end.load(std::memory_order_acquire)) continue;
    report_truncation(slot, address - begin);
  }
  if ((previous_action.sa_flags & SA_SIGINFO) != 0 && previous_action.sa_sigaction != nullptr) {
    previous_action.sa_sigaction(signal, info, context);
  } else if (previous_action.sa_handler != SIG_DFL && previous_action.sa_handler != SIG_IGN) {
    previous_action.sa_handler(signal);
  } else {
    sigaction(SIGBUS, &previous_action, nullptr);  // the fault repeats and meets the default action
    if (info->si_code <= 0) raise(signal);         // somebody sent it: nothing repeats by itself
  }
}

void install_handler_once() {
  static std::once_flag installed;
  std::call_once(installed, [] {
    struct sigaction action{};
    action.sa_sigaction = on_sigbus;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    CHECK(sigaction(SIGBUS, &action, &previous_action) == 0, "SIGBUS handler: {}", std::strerror(errno));
  });
}

// -1 when all slots are taken.
int take_slot(const std::byte* data, size_t size, const char* path) {
  const std::lock_guard lock(slots_mutex);
  for (size_t i = 0; i < slots.size(); ++i) {
    Slot& slot = slots[i];
    if (slot.begin.load() != 0) continue;
    slot.path.store(path);
    slot.regions.store(nullptr);
    slot.region_count.store(0);
    slot.end.store(reinterpret_cast<uintptr_t>(data) + size);
    slot.begin.store(reinterpret_cast<uintptr_t>(data), std::memory_order_release);
    return static_cast<int>(i);
  }
  return -1;
}

void give_back_slot(int index) {
  const std::lock_guard lock(slots_mutex);
  slots[static_cast<size_t>(index)].begin.store(0, std::memory_order_release);
}

// Owns a descriptor.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

Failure io_error(const std::filesystem::path& path, int error) {
  const Code code = error == ENOENT || error == ENOTDIR ? Code::kNotFound : Code::kIo;
  return fail(code, fmt::format("{}: {}", path.string(), std::strerror(error)));
}

// What the system knows of an open regular file.
Result<struct stat> regular_file(const FileDescriptor& file, const std::filesystem::path& path) {
  if (file.get() < 0) return io_error(path, errno);
  struct stat status{};
  if (fstat(file.get(), &status) != 0) return io_error(path, errno);
  if (!S_ISREG(status.st_mode)) {
    return fail(Code::kInvalid, fmt::format("{}: expected a regular file", path.string()));
  }
  return status;
}

}  // namespace

MappedFile::Mapping::~Mapping() {
  if (slot >= 0) give_back_slot(slot);
  if (data != nullptr) munmap(const_cast<std::byte*>(data), size);
  if (fd >= 0) close(fd);
}

MappedFile::MappedFile(std::unique_ptr<Mapping> mapping) : mapping_(std::move(mapping)) {}
MappedFile::MappedFile(MappedFile&&) noexcept = default;
MappedFile& MappedFile::operator=(MappedFile&&) noexcept = default;
MappedFile::~MappedFile() = default;

Result<MappedFile> MappedFile::open(const std::filesystem::path& path) {
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  TRY(const struct stat status, regular_file(file, path));
  const auto size = static_cast<uint64_t>(status.st_size);
  if (size > kMappedBytesMax) {
    return fail(Code::kInvalid,
                fmt::format("{}: {} bytes, at most {} are supported", path.string(), size, kMappedBytesMax));
  }
  auto mapping = std::make_unique<Mapping>();
  mapping->path = path.string();
  if (size == 0) return MappedFile(std::move(mapping));

  install_handler_once();
  void* data = mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
  if (data == MAP_FAILED) {
    return fail(Code::kIo,
                fmt::format("{}: mapping {} bytes: {}", path.string(), size, std::strerror(errno)));
  }
  mapping->data = static_cast<const std::byte*>(data);
  mapping->size = size;
  mapping->written = status.st_mtim;
  mapping->slot = take_slot(mapping->data, size, mapping->path.c_str());
  if (mapping->slot < 0) {
    return fail(Code::kExhausted,
                fmt::format("{}: more than {} mapped files in one process", path.string(), kMappedFilesMax));
  }
  mapping->fd = file.release();
  return MappedFile(std::move(mapping));
}

Result<void> MappedFile::check_unchanged() const {
  if (mapping_->fd < 0) return {};
  struct stat status{};
  if (fstat(mapping_->fd, &status) != 0) return io_error(mapping_->path, errno);
  if (static_cast<uint64_t>(status.st_size) != mapping_->size) {
    return fail(Code::kCorrupt, fmt::format("{}: now {} bytes, expected the {} that were mapped",
                                            mapping_->path, status.st_size, mapping_->size));
  }
  if (status.st_mtim.tv_sec != mapping_->written.tv_sec ||
      status.st_mtim.tv_nsec != mapping_->written.tv_nsec) {
    return fail(Code::kCorrupt, fmt::format("{}: written since it was mapped", mapping_->path));
  }
  return {};
}

std::span<const std::byte> MappedFile::bytes() const { return {mapping_->data, mapping_->size}; }

const std::string& MappedFile::path() const { return mapping_->path; }

void MappedFile::fault_in() const {
  if (mapping_->data == nullptr) return;
  madvise(const_cast<std::byte*>(mapping_->data), mapping_->size, MADV_POPULATE_READ);
}

void MappedFile::name_regions(std::vector<FileRegion> regions) {
  CHECK(mapping_->regions.empty(), "{}: regions named twice", mapping_->path);
  mapping_->regions = std::move(regions);
  if (mapping_->slot < 0) return;
  Slot& slot = slots[static_cast<size_t>(mapping_->slot)];
  slot.regions.store(mapping_->regions.data(), std::memory_order_release);
  slot.region_count.store(mapping_->regions.size(), std::memory_order_release);
}

Result<std::string> read_text_file(const std::filesystem::path& path, size_t bytes_max) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  TRY(const struct stat status, regular_file(file, path));
  const auto size = static_cast<uint64_t>(status.st_size);
  if (size > bytes_max) {
    return fail(Code::kInvalid,
                fmt::format("{}: {} bytes, expected at most {}", path.string(), size, bytes_max));
  }
  std::string text(size, '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = read(file.get(), text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_error(path, errno);
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  text.resize(done);
  return text;
}

}  // namespace baton::checkpoint

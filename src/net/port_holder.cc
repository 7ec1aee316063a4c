// Who listens on a port, as far as /proc shows it to this user.
#include <dirent.h>
#include <fmt/format.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>

#include "net/socket.h"

namespace baton::net {
namespace {

constexpr int kProcessesMax = 100'000;    // looked at before giving up
constexpr int kDescriptorsMax = 100'000;  // of one process

// The inode of the socket that listens on `port` in one of the kernel's tables; empty if none does. Columns:
// number, local address:port, remote, state (0A listens), queues, timer, retransmits, uid, timeout, inode.
std::string listening_inode(const char* table, uint16_t port) {
  std::ifstream lines(table);
  std::string line;
  const std::string wanted = fmt::format(":{:04X}", port);
  while (std::getline(lines, line)) {
    std::istringstream columns(line);
    std::string number, local, remote, state, skipped, inode;
    columns >> number >> local >> remote >> state;
    for (int i = 0; i < 5; ++i) columns >> skipped;
    columns >> inode;
    if (state == "0A" && local.ends_with(wanted) && inode != "0") return inode;
  }
  return {};
}

using Directory = std::unique_ptr<DIR, int (*)(DIR*)>;

Directory open_directory(const std::string& path) { return {opendir(path.c_str()), closedir}; }

bool holds(const std::string& pid, const std::string& link_wanted) {
  const std::string folder = fmt::format("/proc/{}/fd", pid);
  const Directory descriptors = open_directory(folder);
  if (!descriptors) return false;
  for (int i = 0; i < kDescriptorsMax; ++i) {
    const dirent* const entry = readdir(descriptors.get());
    if (entry == nullptr) return false;
    char link[64] = "";
    const std::string path = fmt::format("{}/{}", folder, entry->d_name);
    const ssize_t size = readlink(path.c_str(), link, sizeof(link));
    if (size > 0 && std::string_view(link, static_cast<size_t>(size)) == link_wanted) return true;
  }
  return false;
}

std::string process_name(const std::string& pid) {
  std::ifstream file(fmt::format("/proc/{}/comm", pid));
  std::string name;
  std::getline(file, name);
  return name;
}

}  // namespace

std::string describe_port_holder(uint16_t port) {
  std::string inode = listening_inode("/proc/net/tcp", port);
  if (inode.empty()) inode = listening_inode("/proc/net/tcp6", port);
  if (inode.empty()) return {};
  const std::string link = fmt::format("socket:[{}]", inode);
  const Directory processes = open_directory("/proc");
  if (!processes) return {};
  for (int i = 0; i < kProcessesMax; ++i) {
    const dirent* const entry = readdir(processes.get());
    if (entry == nullptr) break;
    const std::string pid = entry->d_name;
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    if (holds(pid, link)) return fmt::format("in use by pid {} ({})", pid, process_name(pid));
  }
  return {};
}

}  // namespace baton::net

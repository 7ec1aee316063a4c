// What this machine can do at most, measured with the same threads as the kernels: the divisors of every
// claim of speed. A share of a peak is only meaningful when both were measured in the same minute.
#pragma once

#include <cstddef>
#include <span>

#include "base/clock.h"
#include "kernels/cpu.h"

namespace baton::kernels {

struct Peaks {
  double read_bytes_per_s = 0;  // read_all of a buffer far larger than the caches
  double copy_bytes_per_s = 0;  // memcpy between such buffers; bytes copied, counted once
  double bf16_flop_per_s =
      0;                      // bf16 pair products from registers as the ISA does them (VDPBF16PS, else FMAs)
  double f32_flop_per_s = 0;  // float32 FMA from registers
};

// Runs each measurement for about `each`. Of those of memory it keeps the median of the repetitions: others
// on the machine's memory bus come and go within them, as they do while something is compared with it; of
// those of arithmetic the best. Allocates 512 MiB.
Peaks measure_peaks(const Cpu& cpu, Duration each);

// Reads `bytes`, a multiple of 256 KiB, once with all threads: the fastest loop that was found, the sum of
// four streams per thread.
void read_all(const Cpu& cpu, std::span<const std::byte> bytes);

}  // namespace baton::kernels

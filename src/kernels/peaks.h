// What this machine can do at most, measured with the same threads as the kernels: the divisors of every
// claim of speed. A share of a peak is only meaningful when both were measured in the same minute.
#pragma once

#include "base/clock.h"
#include "kernels/cpu.h"

namespace baton::kernels {

struct Peaks {
  double read_bytes_per_s = 0;  // sum of a buffer far larger than the caches, four streams per thread
  double copy_bytes_per_s = 0;  // memcpy between such buffers; bytes copied, counted once
  double bf16_flop_per_s =
      0;                      // bf16 pair products from registers as the ISA does them (VDPBF16PS, else FMAs)
  double f32_flop_per_s = 0;  // float32 FMA from registers
};

// Runs each measurement for about `each` and keeps the best of its repetitions. Allocates 512 MiB.
Peaks measure_peaks(const Cpu& cpu, Duration each);

}  // namespace baton::kernels

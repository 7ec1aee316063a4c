// How a thread stands towards the others of the machine.
#pragma once

namespace baton {

// For a thread that sleeps most of the time and that others wait for: asks the kernel for slices of 0.1 ms,
// so that it runs when it is woken although every core computes, and not after a slice of milliseconds
// (sched_setattr(2), Linux 6.12 and later; no effect elsewhere). Called on the thread itself.
void be_prompt();

}  // namespace baton

"""Times of runs on a GPU, and errors of results."""

import torch


class Clock:
    """Times runs by events, the L2 cache written over before each."""

    # Cycles that the GPU waits before each run, about half a millisecond: until the host has asked for all of it, so
    # that what the host takes to start a kernel is not counted.
    WAIT = 1_000_000

    def __init__(self, scrub_bytes):
        self.scrub = torch.empty(scrub_bytes, dtype=torch.uint8, device="cuda")

    def times(self, run, runs):
        """Milliseconds of each of some runs, after three that do not count."""
        for _ in range(3):
            run()
        marks = []
        for _ in range(runs):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda._sleep(self.WAIT)
            self.scrub.zero_()
            start.record()
            run()
            end.record()
            marks.append((start, end))
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in marks]


def relative_error(found, reference):
    """Frobenius norm of the difference over that of the reference; a result of another size is all wrong."""
    if found.numel() != reference.numel():
        return float("inf")
    # In pieces, so that large results need no large copies.
    difference = norm = 0.0
    for f, r in zip(found.split(1 << 26), reference.split(1 << 26)):
        difference += (f.double() - r.double()).square().sum().item()
        norm += r.double().square().sum().item()
    return (difference / norm) ** 0.5 if norm else difference ** 0.5

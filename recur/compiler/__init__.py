"""From equation to kernel: trace, differentiate, plan, emit, run."""

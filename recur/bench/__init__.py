"""Measuring: recurrent layers side by side in one process, beside what the machine can do at all."""

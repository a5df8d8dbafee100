"""Parallel work: processes, threads, Ray, and memory of the C library."""

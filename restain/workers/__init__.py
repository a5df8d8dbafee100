"""How work is spread: processes, threads, Ray, and what the C library does with memory."""

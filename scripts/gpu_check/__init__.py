"""The parts of scripts/gpu_check.py, which says what they are for."""

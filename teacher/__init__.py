"""The teacher: networks, multi-scale fusion and inference. It reads checkpoints and no other files."""

from teacher.inference import Teacher
from teacher.loading import load_teacher

__all__ = ["Teacher", "load_teacher"]

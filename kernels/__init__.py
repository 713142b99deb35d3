"""Operations that are written out by hand because the plain PyTorch form would need too much memory or time."""

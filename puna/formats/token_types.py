"""The types of a vocabulary's tokens: the numbers that GGUF and SentencePiece share."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
MAX_TYPE = BYTE

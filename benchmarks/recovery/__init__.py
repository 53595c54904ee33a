"""The recovery benchmark: can an encoder be trained back into a code space whose own encoder is hidden?"""

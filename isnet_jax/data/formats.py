"""What is opened as a picture, and what is not."""

from typing import Final

# Of Pillow's formats those that only decode; others, such as EPS, start programs.
FORMATS: Final = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM")

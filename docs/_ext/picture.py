"""The README's picture: what `wtours demo` has drawn, on one sheet.

    python docs/_ext/picture.py demo-data docs/walks.png

Above Figure 2's curves over time, below a clip's frames and what the encoder attends to in them.
"""

import sys
from pathlib import Path

from PIL import Image

WIDTH, GAP, COLORS = 1100, 24, 256


def compose(figure2: Path, clip: Path) -> Image.Image:
    """Return both pictures, one below the other, in few enough colors for a small file."""
    pictures = [Image.open(path).convert("RGB") for path in (figure2, clip)]
    pictures = [
        p.resize((WIDTH, round(p.height * WIDTH / p.width)), Image.Resampling.LANCZOS)
        for p in pictures
    ]
    sheet = Image.new("RGB", (WIDTH, sum(p.height for p in pictures) + GAP), "white")
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height + GAP
    return sheet.quantize(COLORS, kmeans=3, dither=Image.Dither.NONE)


if __name__ == "__main__":
    root, out = Path(sys.argv[1]), Path(sys.argv[2])
    clips = sorted((root / "runs" / "default" / "figures").glob("*-clip-*.png"))
    compose(root / "reports" / "figure2.png", clips[0]).save(out, optimize=True)

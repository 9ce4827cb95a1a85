"""Pictures such as users have."""

from pathlib import Path

from PIL import Image


def write_photographs(folder: Path) -> dict[str, tuple[int, int]]:
    """As cameras and editors leave them: turned, grey, with alpha.

    Returns:
        dict: Names, and widths and heights as they are looked at.
    """
    folder.mkdir()
    photo = Image.effect_noise((160, 120), 60).convert('RGB')
    turned = photo.getexif()
    turned[274] = 6  # the tag that says: turn by 90 degrees
    photo.save(folder / 'turned.jpg', exif=turned)
    photo.save(folder / 'colour.png')
    photo.convert('L').resize((97, 131)).save(folder / 'grey.png')
    photo.convert('RGBA').resize((200, 90)).save(folder / 'alpha.png')
    return {
        'alpha.png': (200, 90),
        'colour.png': (160, 120),
        'grey.png': (97, 131),
        'turned.jpg': (120, 160),
    }

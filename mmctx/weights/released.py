"""Where the authors' released weights are."""

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Released:
    """One released file.

    Attributes:
        url (str, optional): Direct address of the file, None where only the
            folder that holds it is known.
        page (str): Address for a person with a browser.
        sha256 (str, optional): Leading digits of its SHA-256, None where the
            authors published none.
        model (str, optional): Name of the model that starts from the file,
            where that is a plain network; by default the name it goes by.
    """

    url: Optional[str]
    page: str
    sha256: Optional[str] = None
    model: Optional[str] = None


def _drive(file_id: str) -> Released:
    return Released(
        url='https://drive.usercontent.google.com/download'
        f'?id={file_id}&export=download&confirm=t',
        page=f'https://drive.google.com/file/d/{file_id}/view',
    )


#: The authors name neither the files in it nor their digests.
_CONTNET = Released(
    url=None,
    page='https://drive.google.com/drive/folders/'
    '1ZXu--Bis3LTYLjf2pkmDtZH0TjuWWamO',
)


def _coat(name: str, sha256: str) -> Released:
    url = f'https://vcl.ucsd.edu/coat/pretrained/{name}_{sha256}.pth'
    return Released(url=url, page=url, sha256=sha256)


_TIMM = 'https://github.com/rwightman/pytorch-image-models/releases/download'

RELEASED: dict[str, Released] = {
    'cotnet50': _drive('1SR5ezIu7LN943zHaUh4mC0ehxBVMqtfv'),
    'cotnet101': _drive('11jExbPEg4Eq5PApisZyE5k-1CbRYnsQb'),
    'cotnext50': _drive('1j6b5D3xcZ5L_bHiQV0WfqyOieqZLVOCv'),
    'cotnext101': _drive('1des5wgkBDUscQAs8IYOmKCKKUA46QLfJ'),
    'se_cotnetd_50': _drive('1D2b5fr3lxpBpiFcCYBKngmmSgfVHt_56'),
    'se_cotnetd_101': _drive('1PWIltQYpYZiDrpfZORRQzGzQeXVd2b2f'),
    'se_cotnetd_152': _drive('1MkMx0a8an3ikt6LZwClIOyabBnMfR91v'),
    'se_cotnetd_152_320': _drive('1E43T2jS37gR07p_FVWnjJNkMWeYMXgX9'),
    **{f'contnet_{size}': _CONTNET for size in ('ti', 's', 'm', 'b')},
    'coat_lite_tiny': _coat('coat_lite_tiny', 'e88e96b0'),
    'coat_lite_mini': _coat('coat_lite_mini', '6b4a8ae5'),
    'coat_lite_small': _coat('coat_lite_small', '8d362f48'),
    'coat_lite_medium': _coat('coat_lite_medium', 'a750cd63'),
    'coat_lite_medium_384': _coat('coat_lite_medium_384x384', 'f9129688'),
    'coat_tiny': _coat('coat_tiny', 'c6efc33c'),
    'coat_mini': _coat('coat_mini', '40667eec'),
    'coat_small': _coat('coat_small', '7479cf9b'),
    'container_light': _drive('1WMOWoxTX7AQDCbfMYh7naqIHube3K85A'),
    # Not a trained network of the family, of which there are none, but what
    # Contextual ResNets start from.
    'resnet50_a1_in1k': Released(
        url=f'{_TIMM}/v0.1-rsb-weights/resnet50_a1_0-14fe96d1.pth',
        page=f'{_TIMM}/v0.1-rsb-weights/resnet50_a1_0-14fe96d1.pth',
        sha256='14fe96d1',
        model='ctx_resnet50',
    ),
}

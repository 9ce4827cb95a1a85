"""Pages of the site that stand elsewhere in the repository.

MkDocs calls the functions below (``hooks`` in mkdocs.yml).
"""

import json
import re
from html import unescape
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = ('README.md', 'CHANGELOG.md', 'CONTRIBUTING.md', 'LICENSE')


def on_files(files, config):
    """Add READMEs, and the configs that they link to, where they stand."""
    paths = [ROOT / name for name in PAGES]
    paths += [
        path
        for path in (ROOT / 'configs').rglob('*')
        if path.suffix in ('.md', '.py', '.yml')
    ]
    for path in paths:
        source = path.relative_to(ROOT).as_posix()
        files.append(
            File(
                source,
                src_dir=str(ROOT),
                dest_dir=config.site_dir,
                use_directory_urls=config.use_directory_urls,
            )
        )
    for path in (ROOT / 'docs/notebooks').glob('*.ipynb'):
        source = f'notebooks/{path.stem}.md'
        content = _notebook(path)
        files.append(File.generated(config, source, content=content))
    return files


def _notebook(path):
    """The Markdown of a notebook's cells, which have no outputs."""
    text = f'<a href="../{path.name}">The notebook</a>\n\n'
    for cell in json.loads(path.read_text())['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'code':
            source = f'```python\n{source}\n```'
        text += f'{source}\n\n'
    return text


def on_page_markdown(markdown, page, config, files):
    """Make links between docs/ and the root those of one folder."""
    markdown = markdown.replace('.ipynb)', '.md)')
    if page.file.src_uri.startswith('notebooks/'):
        return markdown
    if page.file.src_dir == str(ROOT):
        return re.sub(r'\]\(((?:\.\./)*)docs/', r'](\1', markdown)
    return markdown.replace('](../', '](')


def on_page_content(html, page, config, files):
    """Roles and formulas of docstrings, which are reStructuredText."""
    html = re.sub(r':math:<code>(.*?)</code>', _formula, html, flags=re.S)
    html = re.sub(
        r'(?<=<p>)\.\. math::(.*?)(?=</p>)', _block, html, flags=re.S
    )
    return re.sub(
        r':\w+:<code>~?(?:[\w.]+\.)?(\w+)</code>', r'<code>\1</code>', html
    )


def _formula(match, display='inline'):
    return convert(unescape(match[1]).strip(), display=display)


def _block(match):
    """Formulas of their own, a line each; aligned ones end in a backslash."""
    lines = match[1].replace('&amp;=', '=').strip().split('\\\n')
    return ''.join(
        convert(unescape(line).strip(), display='block') for line in lines
    )

"""The blocks of docs/kafka.md run as they stand there, but for the broker's address."""

import re
from pathlib import Path

from tests.streams.streamed import read, rows_of

PAGE = (Path(__file__).parents[3] / "docs/kafka.md").read_text()


def test_the_blocks_of_the_page_run(broker, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    broker.create("clicks", 2)
    broker.create("doubled", 1)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 6
    for text in blocks:
        text = text.replace("127.0.0.1:9092", broker.servers)
        text = text.replace(
            'group="doublers"', f'group="doublers", partitions="all", servers={broker.servers!r}'
        )
        text = text.replace('name="doubler-1"', f'name="doubler-1", servers={broker.servers!r}')
        names: dict = {}
        exec(compile(text, "docs/kafka.md", "exec"), names)
        if "job" in names:
            summary = names["job"].replace({"stream.end": "now"}).train()
            assert summary.progress.examples == 10_000
    doubled = names["source"].replace(topic="doubled", group=None)
    assert len(rows_of(read(doubled))) == 10_000

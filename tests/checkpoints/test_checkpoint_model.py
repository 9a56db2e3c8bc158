"""The log against a plain model: a dict of rows for each version."""

import shutil
import tempfile
from pathlib import Path

import pytest
from checkpointed import Row, apply, load, row, snapshot
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from onstream.checkpoints import CheckpointLog, LocalStore, Manifest
from onstream.errors import CheckpointError

KEEP = 3

few_keys = st.integers(0, 12)


class LogMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.said: list[str] = []
        self.log = CheckpointLog(LocalStore(self.root), keep=KEEP, report=self.said.append)
        self.rows: dict[int, dict[int, Row]] = {}
        self.facts: dict[int, int] = {}
        # Of each tag: where it pointed, newest last, and whether it is held.
        self.tags: dict[str, list[int]] = {}
        self.held: set[str] = set()
        self.parent: int | None = None
        self.next = 1
        self.replica: tuple[Manifest, dict[int, Row]] | None = None

    def teardown(self) -> None:
        if hasattr(self, "log"):
            self.log.close()
            shutil.rmtree(self.root)

    def grown(self, rows: dict[int, Row], facts: int) -> None:
        """The model's commit and retention."""
        version = max(self.rows, default=0) + 1
        self.rows[version], self.facts[version], self.parent = rows, facts, version
        stay = set(sorted(self.rows)[-KEEP:])
        for now, *before in (reversed(moves) for moves in self.tags.values()):
            stay |= {now, *[v for v in before if v in self.rows][:1]}
        self.rows = {v: r for v, r in self.rows.items() if v in stay}

    @rule(
        new=st.dictionaries(few_keys, st.integers(0, 99), max_size=6),
        gone=st.sets(few_keys, max_size=3),
        anew=st.booleans(),
    )
    def commit(self, new: dict[int, int], gone: set[int], anew: bool) -> None:
        anew = anew and len(gone) == 3
        delta = {k: row(v) for k, v in new.items()}
        self.log.commit(snapshot(self.next, delta, gone - set(new), replace={"user"} if anew else ()))
        before = self.rows[self.parent] if self.parent and not anew else {}
        rows = {k: v for k, v in before.items() if k not in gone} | delta
        self.grown(rows, self.next)
        self.next += 1

    @precondition(lambda self: self.parent)
    @rule(full=st.booleans())
    def compact(self, full: bool) -> None:
        self.log.compact(self.log.parent, full=full)

    @precondition(lambda self: self.parent)
    @rule()
    def recommit(self) -> None:
        self.log.recommit()
        self.grown(self.rows[self.parent], self.facts[self.parent])

    @precondition(lambda self: self.parent)
    @rule(data=st.data(), name=st.sampled_from(["production", "staging"]))
    def tag(self, data: st.DataObject, name: str) -> None:
        version = data.draw(st.sampled_from(sorted(self.rows)))
        self.log.tag(name, version)
        self.point(name, version)
        self.held.add(name)

    @precondition(lambda self: self.parent)
    @rule(name=st.sampled_from(["production", "staging"]))
    def publish(self, name: str) -> None:
        self.log.publish(name, self.parent)
        if name not in self.held:
            self.point(name, self.parent)

    @precondition(lambda self: self.tags)
    @rule(data=st.data())
    def roll_back_tag(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.tags)))
        *before, _ = self.tags[name]
        while before and before[-1] not in self.rows:
            before.pop()
        if before:
            assert self.log.roll_back_tag(name).version == before[-1]
            self.tags[name] = before
            self.held.add(name)
        else:
            with pytest.raises(CheckpointError, match="no version where it pointed before"):
                self.log.roll_back_tag(name)

    @precondition(lambda self: self.tags)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.tags)))
        self.log.release(name)
        self.held.discard(name)

    def point(self, name: str, version: int) -> None:
        moves = self.tags.setdefault(name, [])
        if moves[-1:] != [version]:
            self.tags[name] = [*moves, version][-17:]

    @rule(name=st.sampled_from(["production", "staging"]))
    def untag(self, name: str) -> None:
        self.log.untag(name)
        self.tags.pop(name, None)
        self.held.discard(name)

    @precondition(lambda self: self.parent)
    @rule(data=st.data())
    def rollback(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(sorted(self.rows)))
        self.log.rollback(version)
        self.grown(self.rows[version], self.facts[version])

    @precondition(lambda self: self.parent)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        self.parent = data.draw(st.sampled_from(sorted(self.rows)))
        self.log.restore(self.parent)

    @rule()
    def reopen(self) -> None:
        self.log.close()
        self.log = CheckpointLog(LocalStore(self.root), keep=KEEP, report=self.said.append)
        manifest = self.log.restore()
        self.parent = max(self.rows, default=None)
        assert self.parent == (manifest.version if manifest else None)

    @precondition(lambda self: self.parent)
    @rule(data=st.data())
    def follow(self, data: st.DataObject) -> None:
        """A replica that holds some version turns it into another, with as few segments as it may."""
        version = data.draw(st.sampled_from(sorted(self.rows)))
        manifest = self.log.read(version)
        rows: dict[int, Row] = {}
        added = None
        if self.replica is not None:
            added = manifest.tables["user"].after(self.replica[0].tables["user"])
            rows = self.replica[1] if added is not None else {}
        rows = apply(rows, self.log.rows(manifest, "user", segments=added))
        assert rows == self.rows[version]
        self.replica = manifest, rows

    @invariant()
    def every_version_holds_what_was_committed(self) -> None:
        if not hasattr(self, "log"):
            return
        # Versions that a tag alone kept go with the next commit.
        assert set(self.log.versions()) == set(self.rows)
        for version, rows in self.rows.items():
            manifest = self.log.read(version)
            assert load(self.log, manifest) == rows
            assert manifest.facts["examples"] == self.facts[version]
            assert self.log.states(manifest, "learner").facts == {"examples": self.facts[version]}
            assert manifest.positions == {"clicks": self.facts[version]}
        assert self.log.tags() == {name: moves[-1] for name, moves in self.tags.items()}
        assert {name for name, tag in self.log.tag_details().items() if tag.held} == self.held
        newest = self.log.newest(verify=True)
        assert (newest.version if newest else None) == max(self.rows, default=None)
        assert self.said == []


LogMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, suppress_health_check=list(HealthCheck)
)
TestLog = LogMachine.TestCase

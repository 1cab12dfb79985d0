"""python -m tfrecords WRITER --out FOLDER [options]: writes records; run again, it finishes an interrupted run."""

import argparse
import importlib
import shlex
import sys

import tfrecords
from tfhf.data.audio import AudioError
from tfhf.data.records import DEFAULT_SHARD_BYTES, StaleRecords
from tfhf.data.schema import AUDIO_ENCODINGS, PCM16, RecordError
from tfhf.data.storage import StorageError, write_problem
from tfhf.data.writing import write_split
from tfrecords.beam import write_split_with_beam


def _parser():
    parser = argparse.ArgumentParser(prog="tfhf records", description="Write a dataset as records: OUT/SPLIT/…")
    writers = parser.add_subparsers(dest="writer", required=True, metavar="WRITER")
    for name in tfrecords.WRITERS:
        module = importlib.import_module(f"tfrecords.{name}")
        summary = module.__doc__.splitlines()[0]
        writer = writers.add_parser(name, help=summary, description=module.__doc__,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
        writer.set_defaults(module=module)
        writer.add_argument("--out", required=True, help="folder or gs://…; each split goes to OUT/SPLIT")
        writer.add_argument("--splits", nargs="+", metavar="SPLIT", help="which splits to write (all)")
        writer.add_argument("--encoding", choices=AUDIO_ENCODINGS, default=PCM16,
                            help="how audio is stored (%(default)s)")
        writer.add_argument("--shard-mb", type=float, default=DEFAULT_SHARD_BYTES / 2**20, metavar="MB",
                            help="largest size of a shard, MiB (%(default)g)")
        writer.add_argument("--workers", type=int, help="threads that decode and resample (one per core)")
        writer.add_argument("--skip-bad", type=int, default=0, metavar="N",
                            help="leave out up to N items that cannot be used, and list them in skipped.jsonl (0)")
        writer.add_argument("--overwrite", action="store_true", help="start anew where records already lie")
        writer.add_argument("--beam", action="store_true",
                            help="as an Apache Beam pipeline; unknown options are Beam's (--runner, --project …)")
        module.add_arguments(writer)
    return parser


def main(argv=None):
    """Runs the command; -> exit status: 0, or 1 after one line that says what was wrong."""
    parser = _parser()
    argv = sys.argv[1:] if argv is None else argv
    arguments, rest = parser.parse_known_args(argv)
    if rest and not arguments.beam:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        dataset = arguments.module.open_dataset(arguments)
        known = dataset.splits()
        splits = arguments.splits or known
        unknown = [split for split in splits if split not in known]
        if unknown:
            raise RecordError(f"--splits: {arguments.writer} has no split {unknown}, expected some of {list(known)}")
        options = {"audio_encoding": arguments.encoding, "skip_bad": arguments.skip_bad,
                   "shard_bytes": int(arguments.shard_mb * 2**20), "overwrite": arguments.overwrite}
        for split in splits:
            if arguments.beam:
                write_split_with_beam(dataset, arguments.out, split, rest, **options)
            else:
                write_split(dataset, arguments.out, split, workers=arguments.workers, **options)
    except StaleRecords as error:
        print(f"error: {error}: tfhf records {shlex.join(argv)} --overwrite", file=sys.stderr)
        return 1
    except (RecordError, AudioError, StorageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:   # of the disk with the temporary files
        line = write_problem(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Raw datasets into records: one file per dataset, each a tfhf.data.writing.Dataset.

beam.py runs any of them as an Apache Beam pipeline. A writer module has a one-line docstring, `add_arguments(parser)`
and `open_dataset(arguments) -> Dataset`.
"""

WRITERS = ("asterisk", "audiofolder", "espeak", "hf", "imagefolder", "king_james", "mnist5k", "reviews", "skimage",
           "text")

"""Records and what feeds a step from them.

schema.py     what a record holds: each type once, encode and decode together
shards.py     the bytes of a shard, its index and its manifest
records.py    RecordWriter, RecordReader
verify.py     whether records are whole, and what they are: `tfhf data verify|stats`
writing.py    a dataset's examples, converted in parallel, into records
pipeline.py   records into batches; the order is a function of seed, epoch and step
plan.py       that order, in numpy, for mixtures too
packing.py    short examples into full rows, from the index alone
throughput.py how fast records come, without a model
image.py      image files into pixels and back; exif.py which side is up; image_records.py their examples, checked
augment.py    random changes of images; image_view.py the square of them that a classifier sees
labels.py     numbers of classes, checked, and their names
audio.py      sound files into float32 mono at one sample rate
storage.py    the few file operations that a folder and a gs:// path share
gcs.py        those of gs://, through Google's client

Nothing is imported here: tfhf.data.audio must be usable without loading TensorFlow.
"""

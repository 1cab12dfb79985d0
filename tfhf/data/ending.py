"""Frees what still reads records when Python ends.

A pipeline of tf.data waits for its Python functions before it is freed. At the end of the interpreter they can run no
more, so an iterator that is still alive then, as in the traceback of an error, would wait for ever and the process
would never end. Iterators are therefore freed a moment earlier, when threads still run.
"""

import atexit
import gc

import tensorflow as tf

_ITERATORS = (tf.data.Iterator, tf.distribute.DistributedIterator)


@atexit.register
def free_iterators():
    """Ends every iterator of the process. None of them can be read from afterwards."""
    gc.collect()
    # By their types: isinstance would ask every object of the process for its class, and some answer with a warning.
    for iterator in [thing for thing in gc.get_objects() if issubclass(type(thing), _ITERATORS)]:
        vars(iterator).clear()

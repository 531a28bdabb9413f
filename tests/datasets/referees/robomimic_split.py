"""robomimic's own way to name a part of a file: file, filter key, demos."""

import contextlib
import json
import sys

with contextlib.redirect_stdout(sys.stderr):
    from robomimic.utils.file_utils import create_hdf5_filter_key

    lengths = create_hdf5_filter_key(sys.argv[1], sys.argv[3:], sys.argv[2])
print(json.dumps([int(length) for length in lengths]))

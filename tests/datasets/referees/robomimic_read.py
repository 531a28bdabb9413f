"""robomimic's own dataset class over a file: file, names of observations by kind as JSON, filters."""

import contextlib
import json
import runpy
import sys
import zlib

import numpy as np
import robomimic.utils.obs_utils as obs_utils
from robomimic.utils.dataset import SequenceDataset

path, kinds = sys.argv[1], json.loads(sys.argv[2])
with contextlib.redirect_stdout(sys.stderr):
    obs_utils.initialize_obs_utils_with_obs_specs({"obs": kinds})
    keys = [key for group in kinds.values() for key in group]
    more = {"seq_length": 2, "hdf5_cache_mode": None, "load_next_obs": False}
    dataset = SequenceDataset(path, keys, ("actions", "rewards", "dones"), **more)
    demos = []
    for index, name in enumerate(dataset.demos):
        whole = dataset.get_trajectory_at_index(index)
        first = dataset[dataset._demo_id_to_start_indices[name]]
        demos.append(
            {
                "name": name,
                "actions": whole["actions"].tolist(),
                "rewards": whole["rewards"].tolist(),
                "dones": whole["dones"].tolist(),
                "window": first["actions"].tolist(),
                "obs": {
                    k: whole["obs"][k].tolist()
                    if k in kinds["low_dim"]
                    else zlib.crc32(np.ascontiguousarray(whole["obs"][k]))
                    for k in keys
                },
            }
        )
    filtered = {
        key: SequenceDataset(path, keys, ("actions",), filter_by_attribute=key, **more).demos
        for key in sys.argv[3:]
    }
    sys.argv = ["get_dataset_info", "--dataset", path]
    refused = ""
    try:
        runpy.run_module("robomimic.scripts.get_dataset_info", run_name="__main__")
    except Exception as error:  # noqa: BLE001  what it raises is plain Exception
        refused = str(error)
print(json.dumps({"demos": demos, "length": len(dataset), "filtered": filtered, "refused": refused}))

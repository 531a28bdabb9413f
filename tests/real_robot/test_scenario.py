import numpy as np
from loop import Loop
from scenario import Player, Waver, make_core, play

from regrip.real_robot.node import Node


def test_in_this_process_in_simulated_time():
    loop = Loop()
    played = play(loop, lambda: loop.bench, loop.robot.spec, in_loop=True)
    print(played)
    assert not played.failed, str(played)
    assert len(played.rows) > 30
    assert loop.faults.counts == {}


def test_an_arm_that_is_put_elsewhere_heeds_nothing_that_was_meant_for_the_old_place():
    loop, policy = Loop(), Waver()
    core = make_core(loop.robot.spec)
    node = Node(core, loop, policy, in_loop=True)
    node.connect()
    p = Player(node, loop.bench, policy, 8.0)
    p.wait(lambda: bool(loop.bench.truth.names))
    p.wait(loop.bench.tamper())
    p.wait(lambda: not core.gate.fault(loop.now()))
    assert p.enable()
    assert p.moves()
    start = {"task": "demo/push_red", "split": "train", "index": 3, "seed": 0}
    p.wait(loop.bench.order(do="reset", **start))
    home = loop.bench.position
    p.run(0.05)
    core.on_enable(False, loop.now())  # comes to rest, as far as it knows: where it was
    p.run(1.0)
    assert loop.bench.truth.unheeded > 0
    assert np.abs(loop.bench.position - home)[:7].max() < 0.01
    assert p.enable()
    assert p.moves()
    node.close()

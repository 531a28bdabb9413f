from loop import Loop
from scenario import play


def test_in_this_process_in_simulated_time():
    loop = Loop()
    played = play(loop, lambda: loop.bench, loop.robot.spec, in_loop=True)
    print(played)
    assert not played.failed, str(played)
    assert len(played.rows) > 30
    assert loop.faults.counts == {}

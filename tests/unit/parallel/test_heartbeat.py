"""Heartbeats over real sockets of this host."""

import secrets
import socket
import threading
import time

import pytest

from lockstep.parallel.heartbeat import TOKEN_BYTES, Switchboard, call
from lockstep.parallel.judge import Beat

TOKEN = secrets.token_bytes(TOKEN_BYTES)
BEAT = Beat(12, "evaluation", is_step=False, is_waiting=True, cpu_s=1.5, moved_bytes=2**40, group=3)


@pytest.fixture
def board():
    """A root that answers calls and takes note of what it hears."""
    board = Switchboard(TOKEN, 3, is_local=True)
    board.heard = {}
    is_over = threading.Event()

    def listen():
        while not is_over.is_set():
            for rank, beats in board.events(0.01):
                board.heard.setdefault(rank, []).append(beats)

    thread = threading.Thread(target=listen)
    thread.start()
    yield board
    is_over.set()
    thread.join()
    board.close()


def dial(board, rank, token=TOKEN):
    return call(["127.0.0.1"], board.port, token, rank)


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def test_a_heartbeat_arrives_as_it_was_sent(board):
    line = dial(board, 1)
    line.send(BEAT)
    wait_for(lambda: board.heard.get(1))
    assert board.heard[1] == [[BEAT]]
    board.send(BEAT)
    assert line.receive_for(20) == [BEAT]
    line.close()


def test_a_death_is_told_from_a_farewell(board):
    dead, gone = dial(board, 1), dial(board, 2)
    dead.close()
    gone.farewell()
    gone.close()
    wait_for(lambda: board.heard.get(1, [0])[-1] is None and board.heard.get(2, [0])[-1] is None)
    assert not board.connections[1].has_left
    assert board.connections[2].has_left


def test_an_abort_and_signals_are_passed_on(board):
    line = dial(board, 0)
    line.announce_abort(69)
    wait_for(lambda: board.heard.get(0))
    assert board.connections[0].abort_code == 69
    board.connections[0].pass_on(10)
    assert line.receive_for(20) == []
    assert line.signals == [10]
    line.close()


@pytest.mark.parametrize(("rank", "token"), [(1, bytes(TOKEN_BYTES)), (4, TOKEN), (-1, TOKEN)])
def test_strangers_are_not_let_in(board, rank, token):
    assert dial(board, rank, token) is None
    assert board.connections == {}


def test_a_rank_is_let_in_once(board):
    first = dial(board, 1)
    assert dial(board, 1) is None
    first.send(BEAT)
    wait_for(lambda: board.heard.get(1))
    first.close()


def test_whoever_says_nothing_does_not_keep_others_out(board):
    with socket.create_connection(("127.0.0.1", board.port)):
        line = dial(board, 1)
        assert line is not None
        line.close()


def test_where_nobody_listens_there_is_no_connection():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert call(["127.0.0.1"], port, TOKEN, 1) is None

import gzip
import hashlib
import http.server
import threading

import numpy as np
import pytest

from lockstep.data.convert import ConvertOptions, convert
from lockstep.data.sources import idx, mnist
from lockstep.errors import UserError


class Mirrors:
    """Some mirrors, served on 127.0.0.1, as a folder each; what is asked for is noted."""

    def __init__(self, folder, url, asked):
        self.folder = folder
        self.url = url
        self.asked = asked

    def add(self, name, contents):
        (self.folder / name).mkdir()
        for file, content in contents.items():
            (self.folder / name / f"{file}.gz").write_bytes(content)
        return f"{self.url}/{name}/"


@pytest.fixture
def mirrors(tmp_path):
    folder = tmp_path / "mirrors"
    folder.mkdir()
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_message(self, *_args):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Mirrors(folder, f"http://127.0.0.1:{server.server_port}", asked)
        server.shutdown()
        thread.join()


@pytest.fixture
def contents(idx_folder):
    return {name: (idx_folder / name).read_bytes() for name in idx.FILES}


@pytest.fixture
def digests(contents):
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCKSTEP_CACHE", str(tmp_path / "cache"))
    # Nothing between this test and its own server.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache" / "mnist"


def compressed(contents, level=9):
    return {name: gzip.compress(content, level) for name, content in contents.items()}


def names(asked):
    return [path.split("/")[1] for path in asked]


def test_the_third_mirror_is_good(mirrors, contents, digests, cache):
    urls = [
        f"{mirrors.url}/nothing/",
        mirrors.add("corrupt", compressed(dict.fromkeys(contents, b"other"))),
        mirrors.add("good", compressed(contents)),
    ]
    mnist.fetch(cache, urls, digests)
    for name, content in contents.items():
        assert gzip.decompress((cache / f"{name}.gz").read_bytes()) == content
    assert len(list(cache.iterdir())) == 4
    # Those that failed are not asked again while another one is good.
    assert names(mirrors.asked)[::-1][:4] == ["good"] * 4
    assert {"nothing", "corrupt"} < set(names(mirrors.asked))
    assert names(mirrors.asked).count("good") == 4


def test_files_may_be_compressed_in_any_way(mirrors, contents, digests, cache):
    mnist.fetch(cache, [mirrors.add("plain", contents)], digests)
    mnist.fetch(cache, [mirrors.add("quick", compressed(contents, 1))], digests)
    assert "quick" not in names(mirrors.asked)


def test_what_is_in_the_cache_is_not_downloaded(mirrors, contents, digests, cache):
    url = mirrors.add("good", compressed(contents))
    mnist.fetch(cache, [url], digests)
    mirrors.asked.clear()
    mnist.fetch(cache, [url], digests)
    assert mirrors.asked == []


@pytest.mark.parametrize("damage", [b"", b"\x1f\x8b cut off", b"other"])
def test_a_damaged_file_in_the_cache_is_downloaded_again(mirrors, contents, digests, cache, damage):
    url = mirrors.add("good", compressed(contents))
    mnist.fetch(cache, [url], digests)
    mirrors.asked.clear()
    path = cache / "train-labels-idx1-ubyte.gz"
    path.write_bytes(damage)
    mnist.fetch(cache, [url], digests)
    assert mirrors.asked == ["/good/train-labels-idx1-ubyte.gz"]
    assert gzip.decompress(path.read_bytes()) == contents["train-labels-idx1-ubyte"]


def test_when_no_mirror_works_each_is_named(mirrors, contents, digests, cache):
    urls = [
        f"{mirrors.url}/nothing/",
        mirrors.add("corrupt", compressed(dict.fromkeys(contents, b"other"))),
        mirrors.add("broken", dict.fromkeys(contents, b"\x1f\x8b broken")),
    ]
    with pytest.raises(UserError) as error:
        mnist.fetch(cache, urls, digests)
    message = str(error.value)
    first = next(iter(digests))
    assert message.startswith(f"No mirror gave {first}.gz.")
    assert f"{urls[0]} said: 404" in message
    assert f"{urls[1]} said: its content has SHA-256" in message
    assert f"{urls[2]} said: the file is damaged" in message
    assert "by hand" in message
    assert all(name in message for name in idx.FILES)
    assert list(cache.iterdir()) == []


def test_a_mirror_that_does_not_answer(digests, cache):
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9/mnist/ said: "):
        mnist.fetch(cache, ["http://127.0.0.1:9/mnist/"], digests)


def test_what_is_no_url(digests, cache):
    with pytest.raises(UserError, match="nonsense said: "):
        mnist.fetch(cache, ["nonsense"], digests)


def test_a_cache_that_can_not_be_written(tmp_path, digests):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Can't write the downloads .* LOCKSTEP_CACHE"):
        mnist.fetch(tmp_path / "file" / "mnist", [], digests)


def test_mnist_is_converted_from_the_cache(
    mirrors, contents, digests, cache, tmp_path, monkeypatch, read_all, small_mnist
):
    monkeypatch.setattr(mnist, "CONTENT_SHA256", digests)
    options = ConvertOptions(mirrors=(mirrors.add("good", compressed(contents)),))
    info = convert("mnist", tmp_path / "mnist.h5", options)
    assert (info.name, info.source) == ("mnist", "mnist")
    np.testing.assert_array_equal(read_all(tmp_path / "mnist.h5", "test")[0], small_mnist[2])


@pytest.mark.mnist
def test_the_known_digests_are_those_of_mnist(mnist_folder):
    for name, digest in mnist.CONTENT_SHA256.items():
        content = idx.find(mnist_folder, name).read_bytes()
        unpacked = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        assert hashlib.sha256(unpacked).hexdigest() == digest

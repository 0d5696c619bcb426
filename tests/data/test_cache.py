"""Caches of decoded images: what comes out is what went in, and nothing that is out of date."""

import multiprocessing
import os

import numpy as np
import pytest

from yolor_d2.data import cache as module
from yolor_d2.data.cache import DiskCache, MemoryCache, available_memory, image_bytes

SIZES = np.array([[2, 3], [4, 1], [3, 3]])
IMAGES = [
    np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8)
    for i, size in enumerate(SIZES.tolist())
]


@pytest.fixture
def files(tmp_path) -> list[str]:
    paths = [tmp_path / f"{i}.jpg" for i in range(3)]
    for path in paths:
        path.write_bytes(b"an image")
    return list(map(str, paths))


@pytest.fixture
def messages(monkeypatch) -> list[str]:
    """What is logged."""
    found = []
    for level in ("info", "warning"):
        monkeypatch.setattr(module.logger, level, lambda form, *x: found.append(form % x))
    return found


def disk_cache(files, folder, *, original_sizes=SIZES, sizes=SIZES) -> DiskCache:
    return DiskCache(lambda i: files[i], original_sizes, sizes, folder)


@pytest.fixture(params=["ram", "disk"])
def cache(request, files, tmp_path) -> MemoryCache | DiskCache:
    return MemoryCache(SIZES) if request.param == "ram" else disk_cache(files, tmp_path / "cache")


def test_cost_by_hand():
    """2 * 3 * 3, 4 * 1 * 3 and 3 * 3 * 3 bytes; more than 32 bits of them."""
    assert image_bytes(SIZES).tolist() == [18, 12, 27]
    assert image_bytes(np.full((1, 2), 40_000, np.int32)).tolist() == [4_800_000_000]


def test_out_comes_what_went_in(cache):
    assert [cache.get(i) for i in range(3)] == [None] * 3
    for i in (1, 2, 0):
        cache.put(i, IMAGES[i])
        cache.put(i, IMAGES[i])  # another worker may have been as fast
    for image, expected in zip(map(cache.get, range(3)), IMAGES):
        np.testing.assert_array_equal(image, expected)
        assert image.dtype == np.uint8


def test_one_image_leaves_the_others_unknown(cache):
    cache.put(1, IMAGES[1])
    assert cache.get(0) is None and cache.get(2) is None


# ---- memory


def test_images_in_memory_cannot_be_changed():
    cache = MemoryCache(SIZES)
    cache.put(0, IMAGES[0])
    with pytest.raises(ValueError, match="read-only"):
        cache.get(0)[:] = 0


def put_from_another_process(cache: MemoryCache, index: int) -> None:
    cache.put(index, IMAGES[index])


@pytest.mark.heavy
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_processes_share_memory(method):
    cache = MemoryCache(SIZES)
    context = multiprocessing.get_context(method)
    worker = context.Process(target=put_from_another_process, args=(cache, 2))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0
    np.testing.assert_array_equal(cache.get(2), IMAGES[2])
    assert cache.get(0) is None


def test_the_cost_is_logged_before_it_is_paid(messages):
    MemoryCache(np.full((4, 2), 8192))
    assert "4 images take 0.75 GiB" in messages[0]  # 4 * 8192 * 8192 * 3 bytes


def test_too_little_memory_is_refused(monkeypatch):
    monkeypatch.setattr(module, "available_memory", lambda: 100)
    MemoryCache(SIZES)  # 57 bytes
    with pytest.raises(ValueError, match=r"INPUT\.CACHE is 'ram', but 3 images .*'disk'"):
        MemoryCache(SIZES, copies=2)
    monkeypatch.setattr(module, "available_memory", lambda: None)
    MemoryCache(SIZES, copies=1000)  # nobody knows


def test_available_memory_is_less_than_there_is():
    found = available_memory()
    if found is not None:
        assert 0 < found < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_memory_is_given_back():
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    for _ in range(20):
        MemoryCache(SIZES)
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= before + 1


# ---- disk


def test_runs_share_a_folder(files, tmp_path):
    disk_cache(files, tmp_path / "cache").put(0, IMAGES[0])
    np.testing.assert_array_equal(disk_cache(files, tmp_path / "cache").get(0), IMAGES[0])


@pytest.mark.parametrize("what", ["content", "time", "original size", "size", "path"])
def test_entries_out_of_date_are_not_used(files, tmp_path, what):
    cache = disk_cache(files, tmp_path / "cache")
    cache.put(0, IMAGES[0])
    other = SIZES + 1
    if what == "content":
        with open(files[0], "ab") as file:
            file.write(b"more")
        os.utime(files[0], ns=(0, 0))
        cache = disk_cache(files, tmp_path / "cache")
    elif what == "time":
        os.utime(files[0], ns=(1, 1))
    elif what == "original size":
        cache = disk_cache(files, tmp_path / "cache", original_sizes=other)
    elif what == "size":
        cache = disk_cache(files, tmp_path / "cache", sizes=other)
    else:
        os.rename(files[0], files[0] + ".jpg")
        cache = disk_cache([files[0] + ".jpg"], tmp_path / "cache")
    assert cache.get(0) is None


@pytest.mark.parametrize("damage", [b"", b"no numpy", None])
def test_damaged_entries_are_made_anew(files, tmp_path, damage):
    cache = disk_cache(files, tmp_path / "cache")
    cache.put(2, IMAGES[2])
    content = cache.path(2).read_bytes()
    cache.path(2).write_bytes(content[:-5] if damage is None else damage)
    assert cache.get(2) is None
    cache.put(2, IMAGES[2])
    np.testing.assert_array_equal(cache.get(2), IMAGES[2])


def test_a_full_disk_leaves_no_rest(files, tmp_path, monkeypatch):
    def fail(file, image):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    cache = disk_cache(files, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(module.np, "save", fail)
        with pytest.raises(OSError, match="No space left"):
            cache.put(0, IMAGES[0])
    assert [x for x in (tmp_path / "cache").rglob("*") if x.is_file()] == []
    assert cache.get(0) is None


def test_too_little_disk_is_told(files, tmp_path, monkeypatch, messages):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: usage)
    disk_cache(files, tmp_path / "cache")
    assert "no place for all images" in messages[-1]

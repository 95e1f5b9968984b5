#!/usr/bin/env python3
"""A real file manager (PCManFM, without a screen) at work in the mount.

    desktop.py MOUNTED ROOM BUDGET_COMMAND

MOUNTED is the workspace in the guest's mount, ROOM an empty folder on an own disk, BUDGET_COMMAND prints how many bytes
the guest's cache takes. What a person would do is done with keys and the clipboard, and what came of it is looked up on
disk. With TWINSHARE_SCREENSHOT in the environment, a picture of the window is written to that file.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

mounted, room, budget_command = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
processes = []

# Where icons are in a window of this size, in pixels.
WINDOW = (900, 560)
FIRST, STEP, IN_A_ROW = (207, 100), 94, 7


def start(*command, **options):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    processes.append(process)
    return process


def poll(condition, seconds):
    """What becomes of the condition within that time."""
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def wait_for(what, condition, seconds=20, act=lambda: None):
    """Until it's so, or an end with its name. What is to bring it about is done again when nothing comes of it: a
    window that was just opened may not take what is typed yet."""
    for _ in range(5):
        act()
        if found := poll(condition, seconds / 5):
            return found
    # Not in the room, which is removed.
    picture = "/tmp/twinshare-desktop-failure.png"
    subprocess.run(["scrot", "--overwrite", picture], check=False)
    sys.exit(f"desktop: never: {what} (a picture is in {picture})")


def xdotool(*words):
    done = subprocess.run(["xdotool", *map(str, words)], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def window(title, act=lambda: None):
    found = lambda: xdotool("search", "--onlyvisible", "--name", f"^{title}$").split()[:1]
    return wait_for(f"a window {title!r}", found, 40, act)[0]


def dialog(*others, act=lambda: None):
    """The window that opens over others."""

    def over():
        active = xdotool("getactivewindow")
        return None if active in ("", *others) else active

    return wait_for("a question", over, 40, act)


def press(name, *keys):
    xdotool("windowactivate", "--sync", name)
    xdotool("key", "--delay", "30", *keys)


def write(text):
    xdotool("type", "--delay", "15", text)


def show(path):
    """Opens a folder in a window of its own and gives the window."""
    start("pcmanfm", "--new-win", str(path))
    name = window(path.name)
    xdotool("windowsize", "--sync", name, *WINDOW)
    return name


def select(name, folder, file):
    """Clicks at an entry of a folder whose entries fit in one row."""
    listed = sorted(folder.iterdir(), key=lambda entry: (not entry.is_dir(), entry.name.lower()))
    names = [entry.name for entry in listed if not entry.name.startswith(".")]
    assert len(names) <= IN_A_ROW, names
    xdotool("windowactivate", "--sync", name)
    x, y = FIRST
    xdotool("mousemove", "--window", name, x + STEP * names.index(file), y, "click", 1)


def cached():
    return int(subprocess.run(budget_command, shell=True, capture_output=True, check=True, text=True).stdout)


def at_work():
    source = mounted / "src"

    # Opening a folder of large files and pictures moves little.
    media = mounted / "media"
    size = sum(file.stat().st_size for file in media.iterdir())
    before = cached()
    pictures = show(media)
    settled = [0, time.monotonic()]

    def quiet():
        now = cached()
        if now != settled[0]:
            settled[:] = [now, time.monotonic()]
        return time.monotonic() - settled[1] > 3

    wait_for("the folder is shown and nothing more is read", quiet, 60)
    moved = cached() - before
    print(f"desktop: looking at a folder of {size >> 20} MiB brought {moved >> 10} KiB ({100 * moved / size:.0f}%)")
    for kind in sorted({file.suffix for file in media.iterdir()}):
        files = list(media.glob(f"*{kind}"))
        total = sum(file.stat().st_size for file in files)
        held = sum(int(os.getxattr(file, "user.twinshare.cached_bytes")) for file in files)
        print(f"desktop:   {kind}: {held >> 10} of {total >> 10} KiB ({100 * held / total:.0f}%)")
    if moved > size / 4:
        sys.exit("desktop: that is more than a quarter of it")
    press(pictures, "ctrl+w")

    # Browse: into a folder and back out.
    main = show(mounted)
    enter = lambda: (select(main, mounted, "src"), press(main, "Return"))
    window("src", enter)
    window(mounted.name, lambda: press(main, "alt+Up"))
    if picture := os.environ.get("TWINSHARE_SCREENSHOT"):
        select(main, mounted, "src")
        subprocess.run(["scrot", "--overwrite", "--focused", "--delay", "1", picture], check=True)
    window("src", enter)

    # Open: the program for text files is started with the file.
    opened = room / "opened"
    wait_for("a file is opened", lambda: same(opened, source / "read-me.txt"),
             act=lambda: (select(main, source, "read-me.txt"), press(main, "Return")))

    # Copy out.
    copies = room / "copies"
    copies.mkdir()
    other = show(copies)
    wait_for("a file is copied out", lambda: same(copies / "copy-me.bin", source / "copy-me.bin"),
             act=lambda: (select(main, source, "copy-me.bin"), press(main, "ctrl+c"), press(other, "ctrl+v")))
    press(other, "ctrl+w")

    # Copy in.
    outside = room / "outside"
    outside.mkdir()
    (outside / "from-here.txt").write_text("from this machine")
    here = show(outside)
    wait_for("a file is copied in", lambda: same(source / "from-here.txt", outside / "from-here.txt"),
             act=lambda: (select(here, outside, "from-here.txt"), press(here, "ctrl+c"), press(main, "ctrl+v")))
    press(here, "ctrl+w")

    # Make a folder, rename a file, delete one for good. What is asked is answered.
    answer(dialog(main, act=lambda: press(main, "shift+ctrl+n")), "made here")
    wait_for("a folder is made", lambda: (source / "made here").is_dir())
    answer(dialog(main, act=lambda: (select(main, source, "rename-me"), press(main, "F2"))), "renamed")
    wait_for("a file is renamed", lambda: (source / "renamed").exists() and not (source / "rename-me").exists())
    erase = lambda: (select(main, source, "delete-me"), press(main, "shift+Delete"))
    press(dialog(main, act=erase), "Return")
    wait_for("a file is deleted", lambda: not (source / "delete-me").exists())

    # The mount has no trash: it's asked a second time, whether the file is to be deleted instead.
    first = dialog(main, act=lambda: (select(main, source, "trash-me"), press(main, "Delete")))
    press(first, "Return")
    second = dialog(main, first)
    assert (source / "trash-me").exists(), "deleted before the second answer"
    press(second, "Return")
    wait_for("what has no trash to go to is deleted", lambda: not (source / "trash-me").exists())
    trash = [place for top in (*mounted.parents[:2], mounted) for place in top.glob(".Trash*")]
    assert not trash, trash
    print("desktop: browsed, opened, copied out and in, made, renamed and deleted")


def answer(dialog, text):
    press(dialog, "ctrl+a")
    write(text)
    press(dialog, "Return")


def same(a, b):
    return a.exists() and a.read_bytes() == b.read_bytes()


def settings():
    """A home of its own: a program for text files that notes what it was given, and pictures of all kinds wanted."""
    home = room / "home"
    applications = home / ".local/share/applications"
    applications.mkdir(parents=True)
    (home / ".config/pcmanfm/default").mkdir(parents=True)
    (home / ".config/libfm").mkdir()
    viewer = room / "viewer"
    viewer.write_text(f'#!/bin/sh\ncat "$1" >"{room}/opened.new" && mv "{room}/opened.new" "{room}/opened"\n')
    viewer.chmod(0o755)
    (applications / "viewer.desktop").write_text(
        f"[Desktop Entry]\nType=Application\nName=Viewer\nExec={viewer} %f\nMimeType=text/plain;\n"
    )
    (home / ".config/mimeapps.list").write_text("[Default Applications]\ntext/plain=viewer.desktop\n")
    (home / ".config/libfm/libfm.conf").write_text(
        "[config]\nsingle_click=0\nuse_trash=1\nconfirm_del=1\n[ui]\nbig_icon_size=48\nshow_thumbnail=1\n"
    )
    # What the system has, but for further programs that make small pictures: which of them are there differs.
    shared = room / "share"
    shared.mkdir()
    for entry in Path("/usr/share").iterdir():
        if entry.name != "thumbnailers":
            (shared / entry.name).symlink_to(entry)
    os.environ.update(HOME=str(home), XDG_CONFIG_HOME=str(home / ".config"), XDG_DATA_HOME=str(home / ".local/share"),
                      XDG_CACHE_HOME=str(home / ".cache"), XDG_DATA_DIRS=str(shared), LANG="C.UTF-8", LC_ALL="C.UTF-8")


def ask(*command):
    """Starts a program and gives the line that it tells in the pipe whose number is appended to its command."""
    reader, writer = os.pipe()
    start(*command[:-1], command[-1] + str(writer), pass_fds=[writer])
    os.close(writer)
    with os.fdopen(reader) as pipe:
        return pipe.readline().strip() or sys.exit(f"desktop: {command[0]} doesn't start")


def main():
    # Ends in `finally` also when it's told to stop: nothing stays.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("desktop: stopped"))
    settings()
    try:
        number = ask("Xvfb", "-screen", "0", "1100x700x24", "-nolisten", "tcp", "-displayfd", "")
        os.environ["DISPLAY"] = f":{number}"
        os.environ["DBUS_SESSION_BUS_ADDRESS"] = ask("dbus-daemon", "--session", "--nofork", "--print-address=")
        start("openbox")
        wait_for("the window manager", lambda: xdotool("get_num_desktops"))
        at_work()
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait()


main()

#!/usr/bin/python3
"""A real RTSP server (gst-rtsp-server) that plays an H.264 clip over and over at `rtsp://127.0.0.1:PORT/cam`.

A program of its own, for Debian's Python: python3-gi, gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-base, -good and
-bad. It prints `ready PORT` when it can be asked. Tests kill it (SIGKILL) and freeze it (SIGSTOP).
"""

import argparse
import threading
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402 - only after require_version

H264 = "video/x-h264,stream-format=byte-stream,alignment=au"


def load_clip(path):
    """The clip's access units with their times in ns (decoding, presentation), already encoded as they are."""
    pipeline = Gst.parse_launch(
        f'filesrc location="{path}" ! qtdemux ! h264parse config-interval=-1 ! {H264} ! appsink name=sink sync=false'
    )
    sink = pipeline.get_by_name("sink")
    pipeline.set_state(Gst.State.PLAYING)
    units = []
    while (sample := sink.emit("try-pull-sample", 10 * Gst.SECOND)) is not None:
        buffer = sample.get_buffer()
        units.append((buffer.extract_dup(0, buffer.get_size()), buffer.dts, buffer.pts))
    pipeline.set_state(Gst.State.NULL)
    first = units[0][1]
    return [(data, dts - first, pts - first) for data, dts, pts in units]


class Live(GstRtspServer.RTSPMediaFactory):
    """What all clients watch together: the clip at its own pace times `speed`, from its start for the first of them."""

    def __init__(self, units, speed, says_when=False):
        super().__init__()
        self._units, self._speed, self._says_when = units, speed, says_when
        self.set_shared(True)
        self.set_launch(
            f"( appsrc name=src is-live=true format=time caps={H264} ! h264parse config-interval=-1"
            " ! rtph264pay name=pay0 pt=96 )"
        )
        self.connect("media-configure", self._configure)

    def _configure(self, _factory, media):
        stop = threading.Event()
        media.connect("unprepared", lambda _media: stop.set())
        source = media.get_element().get_child_by_name("src")
        threading.Thread(target=self._feed, args=(source, stop), daemon=True).start()

    def _feed(self, source, stop):
        length = self._units[-1][1] + (self._units[1][1] - self._units[0][1])
        origin = time.monotonic()
        for turn in range(1_000_000):
            data, dts, pts = self._units[turn % len(self._units)]
            loops = turn // len(self._units) * length
            due = origin + (loops + dts) / 1e9 / self._speed
            if time.monotonic() - due > 1.0:  # woken from SIGSTOP: live goes on from now
                origin += time.monotonic() - due
            elif stop.wait(max(0.0, due - time.monotonic())):
                return
            buffer = Gst.Buffer.new_wrapped(data)
            buffer.dts, buffer.pts = (int((loops + stamp) / self._speed) for stamp in (dts, pts))
            if self._says_when:
                print("sent", turn, time.monotonic_ns(), flush=True)
            if source.emit("push-buffer", buffer) != Gst.FlowReturn.OK:
                return


def require_login(server, factory, user, password, method):
    """Let only this user in, by `basic` or `digest`."""
    auth, token, permissions = GstRtspServer.RTSPAuth(), GstRtspServer.RTSPToken(), GstRtspServer.RTSPPermissions()
    token.set_string("media.factory.role", "viewer")
    if method == "basic":
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    else:
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest(user, password, token)
    for right in ("media.factory.access", "media.factory.construct"):
        permissions.add_permission_for_role("viewer", right, True)
    server.set_auth(auth)
    factory.set_permissions(permissions)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", help="an MP4 with H.264")
    parser.add_argument("--port", default="0", help="default: any free one")
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--says-when", action="store_true", help="print number and monotonic time of each picture sent")
    parser.add_argument("--login", nargs=3, metavar=("USER", "PASSWORD", "METHOD"), help="METHOD: basic or digest")
    options = parser.parse_args()
    Gst.init(None)
    factory = Live(load_clip(options.clip), options.speed, options.says_when)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(options.port)
    if options.login:
        require_login(server, factory, *options.login)
    server.get_mount_points().add_factory("/cam", factory)
    if not server.attach(None):
        raise SystemExit(f"port {options.port} can't be used")
    print("ready", server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()

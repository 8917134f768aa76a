"""The library's chat templates through ctypes, and transformers' own: what the scripts here compare."""
import ctypes, datetime, json
from unittest import mock


class Text(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("count", ctypes.c_size_t), ("capacity", ctypes.c_size_t)]


class Span(ctypes.Structure):
    _fields_ = [("begin", ctypes.c_size_t), ("end", ctypes.c_size_t)]


class Rendered(ctypes.Structure):
    _fields_ = [("text", Text), ("foreign", ctypes.POINTER(Span)), ("count", ctypes.c_size_t), ("capacity", ctypes.c_size_t)]


class ChatOptions(ctypes.Structure):
    _fields_ = [("tools", ctypes.c_char_p), ("documents", ctypes.c_char_p), ("variables", ctypes.c_char_p),
                ("generation_prompt", ctypes.c_bool), ("now", ctypes.c_int64)]


class Options(ctypes.Structure):
    _fields_ = [("threads", ctypes.c_int), ("seed", ctypes.c_uint64), ("cap", ctypes.c_size_t), ("isa", ctypes.c_int), ("share", ctypes.c_void_p)]


class Quipu:
    def __init__(self, path):
        lib = self.lib = ctypes.CDLL(path)
        lib.qp_open.restype = lib.qp_chat_template_new.restype = ctypes.c_void_p
        lib.qp_open.argtypes = [Options]
        lib.qp_error.restype = ctypes.c_char_p
        lib.qp_error.argtypes = lib.qp_clear.argtypes = lib.qp_chat_template_close.argtypes = [ctypes.c_void_p]
        lib.qp_chat_template_new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]
        lib.qp_chat_template_set.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
        lib.qp_chat_render.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ChatOptions, ctypes.POINTER(Rendered)]
        self.ctx = lib.qp_open(Options(threads=1))
        self.out = Rendered()

    def render(self, template, messages, tokens, tools=None, variables=None, generation=False, now=0):
        """(text, None) or (None, the error)"""
        source = template.encode()
        t = self.lib.qp_chat_template_new(self.ctx, b"template", source, len(source))
        error = None
        if t:
            for name, text in tokens.items():
                assert self.lib.qp_chat_template_set(self.ctx, t, name.encode(), text.encode()) == 0
            body = json.dumps(messages).encode()
            options = ChatOptions(json.dumps(tools).encode() if tools is not None else None, None,
                                  json.dumps(variables).encode() if variables else None, generation, now)
            if self.lib.qp_chat_render(self.ctx, t, body, len(body), options, ctypes.byref(self.out)):
                error = self.lib.qp_error(self.ctx).decode()
        else:
            error = self.lib.qp_error(self.ctx).decode()
        self.lib.qp_clear(self.ctx)
        self.lib.qp_chat_template_close(t)
        if error is not None:
            return None, error
        return ctypes.string_at(self.out.text.data, self.out.text.count).decode(), None


def reference(template, messages, tokens, tools=None, variables=None, generation=False, now=0):
    from transformers.utils import chat_template_utils as u
    class Fixed(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromtimestamp(now, tz)
    with mock.patch.object(u, "datetime", Fixed):
        try:
            out, _ = u.render_jinja_template([messages], tools=tools, chat_template=template, add_generation_prompt=generation,
                                             **tokens, **(variables or {}))
            return out[0], None
        except Exception as e:  # noqa: BLE001 whatever Python raises is a refusal
            return None, f"{type(e).__name__}: {e}"

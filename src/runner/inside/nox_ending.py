"""
The end of a program, without taking apart what was there before it.

At its end the interpreter takes every module apart, also those that no run has touched, which in a copy costs more
than a small program. Two places in Py_FinalizeEx are heard of by objects that die there: what sys.__interactivehook__
refers to is dropped first of all, after threads, atexit, a flush and a collection; sys.stdout last, when the program's
own modules are gone. At either the process may end if nothing is left to happen that a program could notice:

- at the first, if nothing that the program has made does anything when it dies;
- at the second, if what has survived so far does nothing when it dies.

Both only where the program certainly ended without SystemExit and without exception, which is exit code 0. In doubt
the interpreter goes on. If it does so at the first, modules from before the program leave sys.modules, so that only
its own are taken apart, in the order of CPython.
"""
import _thread
import _weakref
import ctypes
import gc
import os
import posix
import sys

import nox_calls

# Modules in C whose objects do nothing when they die but free memory. Others (sqlite3, dbm, h5py, …) may write a file.
HARMLESS = {
    '_asyncio', '_bisect', '_blake2', '_contextvars', '_csv', '_datetime', '_decimal', '_elementtree', '_hashlib',
    '_heapq', '_json', '_md5', '_opcode', '_pickle', '_queue', '_random', '_sha1', '_sha2', '_sha256', '_sha3',
    '_sha512', '_statistics', '_string', '_struct', '_typing', '_uuid', '_zoneinfo', 'array', 'binascii', 'cmath',
    'dateutil', 'errno', 'grp', 'itertools', 'math', 'numpy', 'pandas', 'pwd', 'pyexpat', 'pytz', 'select', 'six',
    'unicodedata', 'zlib', '_bz2', '_lzma', '_locale', '_tracemalloc', '_collections', '_functools', '_operator',
    '_posixsubprocess', '_stat', '_symtable', 'atexit', 'fcntl', 'gc', 'resource', 'time', '_ast', '_tokenize',
}


class Ending:
    def __init__(self, watch_input, at_end):
        self.watch_input, self.at_end = watch_input, at_end


# Of functions that are called when something dies those that only take it out of a container of theirs.
FORGETTING = {('weakref.py', 'remove'), ('_weakrefset.py', '_remove'), ('__init__.py', '_removeHandlerRef')}


def end_quickly(base, preloaded):
    """
    @param base modules from before us, by name; preloaded: modules that were loaded ahead
    @returns `watch_input`, to be called in a copy that has the standard input of its run; `at_end`, a list of what is
        called just before the process ends in this way
    """
    main_module = sys.modules['__main__']
    quick, sentinels = [], []
    dunders, loader = set(vars(main_module)), id(main_module.__loader__)
    main_id, out_id, excepthook = id(main_module), id(sys.stdout), sys.excepthook
    # Of the program's own is only a number here, lest it live longer; and every name that the program could change or
    # take away is bound now.
    del main_module
    this, modules, is_finalizing, at_end = sys, sys.modules, sys.is_finalizing, []
    exit_now, end_now, flush_all = nox_calls.libc['exit'], posix._exit, nox_calls.libc['fflush']
    word_at = ctypes.c_uint64.from_address
    identity, size_of, names_in, as_list, has, each_of, objects, type_of = id, len, vars, list, hasattr, map, gc.get_objects, type
    is_subclass, threads, harmless, forgetting = issubclass, _thread._count, HARMLESS, FORGETTING
    function_type, builtin_type, library = type(end_quickly), type(len), os.path.dirname(os.__file__)
    plain, module_type, spec_type, weak_type = type, type(sys), type(sys.__spec__), _weakref.ReferenceType
    importlib, external = sys.modules['_frozen_importlib'], sys.modules['_frozen_importlib_external']
    of_python = [external.SourceFileLoader, external.SourcelessFileLoader, type(external.__spec__.loader)]
    of_python += [getattr(external, name) for name in ('NamespaceLoader', '_NamespaceLoader') if hasattr(external, name)]
    frozen = importlib.FrozenImporter
    # By way of the type's own descriptors: what a program's class says of itself could be any code.
    callback_of, bases_of, members_of = weak_type.__callback__.__get__, type.__dict__['__mro__'].__get__, type.__dict__['__dict__'].__get__

    def contents(module):
        names = names_in(module)
        # PyDictObject's ma_version_tag (PEP 509): one word that every change of the dict changes.
        return word_at(identity(names) + 24).value if tagged else as_list(each_of(identity, names.values()))

    probe = {'a': 1}
    tag = word_at(id(probe) + 24).value
    probe['a'] = 2
    tagged = word_at(id(probe) + 24).value != tag

    def ended_well():
        main_module, out = modules['__main__'], this.stdout
        names = names_in(main_module)
        # By now sys.last_type is None in any case, but it was put there after ps2, or by the exception.
        attributes = as_list(names_in(this))
        at = attributes.index('ps1')
        after = attributes[at + 1 : at + 3]
        return (
            identity(main_module) == main_id
            # The interpreter takes the two out after the program; not when that ended by SystemExit.
            and '__file__' not in names
            and '__cached__' not in names
            and dunders <= names.keys()
            # There was a program: its loader is not the one from before.
            and identity(names['__loader__']) != loader
            and (after == ['ps2', 'last_type'] or after == ['ps2', 'last_exc'])
            and this.excepthook is excepthook
            # What runs at exit could hide an exception.
            and 'atexit' not in modules
            and identity(out) == out_id
            and out is this.__stdout__
            and not out.closed
            # It is flushed already; where that failed it is code 120.
            and out.flush() is None
        )

    def is_harmless(module):
        """Whether it is written in Python, or in C and known."""
        if type_of(module) is not module_type:
            return False
        spec = names_in(module).get('__spec__')
        if type_of(spec) is not spec_type:
            return spec is None and identity(module) == main_id
        loader = spec.loader
        return loader is frozen or type_of(loader) in of_python or spec.name.partition('.')[0] in harmless

    def has_end(kind):
        if type_of(kind) is plain:
            return has(kind, '__del__')
        return True in ['__del__' in members_of(each) for each in bases_of(kind)]

    def only_forgets(callback):
        """Of a weak reference: of the containers of weakref and logging, and of what an abstract class remembers."""
        if type_of(callback) is function_type:
            code = callback.__code__
            directory, _, file = code.co_filename.rpartition('/')
            return (file, code.co_name) in forgetting and directory.startswith(library)
        return type_of(callback) is builtin_type and callback.__name__ == '_destroy'

    def nothing_to_do():
        """Whether nothing that the program has made does anything when it dies. What was there before is frozen."""
        if threads():
            return False
        made = objects()
        kinds = {identity(kind): kind for kind in each_of(type_of, made)}
        if True in [has_end(kind) for kind in kinds.values()]:
            return False
        weak = {number for number, kind in kinds.items() if is_subclass(kind, weak_type)}
        named = {number for number, kind in kinds.items() if is_subclass(kind, module_type)}
        for each in made:
            kind = identity(type_of(each))
            if kind in weak and not (callback_of(each) is None or only_forgets(callback_of(each))):
                return False
            if kind in named and not is_harmless(each):
                return False
        return True

    def leave(end):
        for stream in (out(), err()):
            if stream is not None:
                stream.flush()
        flush_all(None)
        for each in at_end:
            each()
        end(0)

    def first(_):
        if not is_finalizing():
            return
        try:
            if ended_well():
                if nothing_to_do():
                    # What libraries in C have to do at the end is known as well: nothing.
                    leave(end_now)
                quick.append(True)
            # A module into which the program has put something is taken apart as ever.
            for name, module, before in ours:
                if modules.get(name) is module and contents(module) == before:
                    del modules[name]
            for name, module, size in loaded:
                if modules.get(name) is module and size_of(names_in(module)) == size:
                    del modules[name]
        except:  # noqa: E722 — without a name that could be gone
            pass

    def second(_):
        # Something that waits for its end, a file for its last bytes: then the interpreter goes on.
        if quick and True not in [has_end(type_of(each)) for each in objects()]:
            leave(exit_now)

    ours = [(name, module, contents(module)) for name, module in base.items() if name not in ('sys', 'builtins')]
    loaded = [(name, module, len(vars(module))) for name, module in preloaded.items()]
    sentinels.append(_weakref.ref(sys.__interactivehook__, first))
    out, err = _weakref.ref(sys.stdout, second), _weakref.ref(sys.stderr)
    nox_calls.keep(sentinels)

    def watch_input():
        # A package may hold on to sys.stdout; sys.stdin goes just before it.
        if preloaded:
            sentinels.append(_weakref.ref(sys.stdin, second))

    return Ending(watch_input, at_end)

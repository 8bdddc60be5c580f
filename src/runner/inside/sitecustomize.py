"""Imported by the interpreter just before it would open its program: nox_zygote.py has the theory of operation."""
import nox_zygote

if not nox_zygote.main():
    raise ImportError(name='sitecustomize')  # as if there had been none

class ConfigError(Exception):
    pass


def read():
    raise FileNotFoundError(2, 'No such file or directory', 'settings.ini')


def load():
    try:
        read()
    except FileNotFoundError as error:
        raise ConfigError('cannot load settings') from error


load()

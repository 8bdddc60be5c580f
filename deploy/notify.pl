#!/usr/bin/perl
# Runs a program that can talk to the service manager: notify.pl PROGRAM [ARGUMENT...]
#
# sd_notify(3) takes datagrams on a unix socket, which Node cannot open, and the gateway may start no process that
# could. So the socket is opened here, before the program takes this process over (same pid, hence NotifyAccess=main):
# a message is then one write to the descriptor whose number is in NOTIFY_FD. src/notify.ts is the other half.
use strict;
use warnings;
use Fcntl qw(F_SETFD F_SETFL O_NONBLOCK);
use Socket qw(AF_UNIX SOCK_DGRAM pack_sockaddr_un);

my $manager;
my $path = delete $ENV{NOTIFY_SOCKET};
delete $ENV{NOTIFY_FD};
if (defined $path) {
    # A leading @ stands for an abstract name (systemd.exec(5)).
    (my $address = $path) =~ s/^@/\0/;
    socket($manager, AF_UNIX, SOCK_DGRAM, 0) or die "notify.pl: socket: $!\n";
    connect($manager, pack_sockaddr_un($address)) or die "notify.pl: connect to NOTIFY_SOCKET=$path: $!\n";
    # A manager that is stuck must not stop the program's event loop.
    fcntl($manager, F_SETFL, O_NONBLOCK) or die "notify.pl: fcntl: $!\n";
    # Open across the exec below. Node then closes it to its own children: at its start it marks what it inherited.
    fcntl($manager, F_SETFD, 0) or die "notify.pl: fcntl: $!\n";
    $ENV{NOTIFY_FD} = fileno $manager;
}
exec { $ARGV[0] } @ARGV or die "notify.pl: cannot execute $ARGV[0]: $!\n";

#!/usr/bin/perl
# Tries what a unit is to refuse, from inside of it: probe.pl OTHER_PID, a line "NAME <tab> done or error" for each.
# By number (x86_64), because that is how a filter sees system calls.
use strict;
use warnings;
use Errno;
use Socket;

# Outside of a unit it would succeed with much of this, to the harm of the machine.
die "probe.pl: to be started by systemd, in the virtual machine\n" unless defined $ENV{INVOCATION_ID};
my ($other) = @ARGV;

sub tell_of {
    my ($name, $result) = @_;
    print "$name\t$result\n";
}

sub attempt {
    my ($name, $code) = @_;
    $! = 0;
    my $ok = $code->();
    my ($error) = grep { $!{$_} && $_ ne 'EWOULDBLOCK' && $_ ne 'ENOTSUP' } sort keys %!;
    tell_of($name, $ok ? 'done' : $error // 'failed');
}

# Arguments that are strings are passed by their address.
sub call {
    my ($name, @arguments) = @_;
    attempt($name, sub { syscall($arguments[0], @arguments[1 .. $#arguments]) != -1 });
}

sub write_in {
    my ($directory) = @_;
    attempt("write $directory", sub { my $file; open($file, '>', "$directory/probe") && close($file) && unlink("$directory/probe") });
}

write_in($_) for qw(/etc /usr /var/lib /opt/nox /home /home/nox/nox /home/nox/nox/sandbox /home/nox/nox/logs /run/lock /dev/shm /tmp);

my ($page, $flags) = (4096, 0x22);
call('map writable and executable', 9, 0, $page, 7, $flags, -1, 0);
my $address = syscall(9, 0, $page, 3, $flags, -1, 0);
call('make executable what was writable', 10, $address, $page, 5);

my %namespace = (user => 0x10000000, mount => 0x20000, network => 0x40000000, time => 0x80);
$| = 1;
for my $kind (sort keys %namespace) {
    my $pid = fork // die "fork: $!";
    if ($pid == 0) {
        # A namespace of one kind needs a privilege that a new user namespace brings.
        call("namespace $kind", 272, $namespace{$kind} | ($kind eq 'user' ? 0 : $namespace{user}));
        exit;
    }
    waitpid $pid, 0;
}

my %number = (
    'keyctl' => [250, 0, -3, 0, 0, 0],
    'ptrace' => [101, 16, $other, 0, 0],
    'process_vm_readv' => [310, $other, 0, 0, 0, 0, 0],
    'bpf' => [321, 0, 0, 0],
    'perf_event_open' => [298, 0, 0, -1, -1, 0],
    'mount' => [165, 0, 0, 0, 0, 0],
    'clock_settime' => [227, 0, 0],
    'init_module' => [175, 0, 0, 0],
    'swapoff' => [168, 0],
    'reboot' => [169, 0, 0, 0, 0],
    'iopl' => [172, 3],
    'setuid' => [105, 0],
    'io_uring_setup' => [425, 0, 0],
    'userfaultfd' => [323, 0],
    'personality' => [135, 0x0008],
);
call($_, @{ $number{$_} }) for sort keys %number;
my $name = 'probe';
call('memfd_create', 319, $name, 0);
call('sethostname', 170, $name, 5);
my $priority = pack 'i', 1;
call('real-time scheduling', 144, 0, 1, $priority);

my $own = '/home/nox/nox/sandbox/probe.set';
attempt('set-user-id bit', sub { my $file; open($file, '>', $own) && chmod(04755, $own) });
unlink $own;

my %family = (netlink => 16, packet => 17, vsock => 40, alg => 38, bluetooth => 31);
attempt("socket $_", sub { my $socket; socket($socket, $family{$_}, SOCK_RAW, 0) || socket($socket, $family{$_}, SOCK_STREAM, 0) }) for sort keys %family;
# TEST-NET-1, which the machine has on its loopback: only the unit's own filter is between.
attempt('send to another address', sub {
    my $socket;
    socket($socket, AF_INET, SOCK_DGRAM, 0) && send($socket, 'x', 0, pack_sockaddr_in(9, inet_aton('192.0.2.1')));
});

attempt('signal the other', sub { kill 0, $other });
attempt('read the other', sub { open my $file, '<', "/proc/$other/environ" });

my @processes = grep { m{^/proc/\d+$} } glob '/proc/*';
tell_of('processes of others', scalar grep { my @stat = stat; @stat && $stat[4] != $> } @processes);
tell_of('disks', scalar grep { -b } glob '/dev/*');
tell_of('kernel memory', (-e '/dev/mem' || -e '/dev/kmsg' && -r _) ? 'there' : 'none');
tell_of('proc beyond processes', -e '/proc/meminfo' ? 'there' : 'none');
tell_of('homes', join ' ', map { s{^/home/}{}r } glob('/home/* /home/nox/* /home/nox/nox/*'));
open my $interfaces, '<', '/proc/self/net/dev' or die "net/dev: $!";
tell_of('interfaces', join ' ', map { /^\s*([^:]+):/ ? $1 : () } <$interfaces>);
tell_of('token', exists $ENV{NOX_API_TOKEN} ? 'there' : 'none');
open my $status, '<', '/proc/self/status' or die "status: $!";
for (<$status>) { tell_of($1, $2) if /^(CapEff|CapBnd|NoNewPrivs|Seccomp):\s*(\S+)/ }

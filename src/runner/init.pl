# init: process 1 of every run. It finishes the sandbox from inside, starts the program, and tells how it ended.
#
# Theory of operation
#
#   runner ──spawns──▶ bwrap (outside the pid namespace, waits) ──▶ this (pid 1) ──fork──▶ the program (pid 2)
#
# Why not bwrap's own pid 1: it reports a death by signal N as exit code 128+N, so that `exit(139)` and a
# segmentation fault look alike, and it cannot place the code of a run into the workspace without following
# links that another run of the same workspace put there. Why Perl: perl-base is on every Debian and Ubuntu
# (Essential: yes), it starts in about 1.5 ms, and its syscall() reaches what this needs.
#
# Descriptor 3 is a socket to the runner and the only thing here that a program could abuse; Perl marks it
# close-on-exec, and this process is not dumpable, so that nobody can reach it through /proc/1 or ptrace.
#
#   1. "hello": namespaces stand, no code of a client has run. The runner may now move pid 1 into a cgroup.
#   2. The plan arrives: a 32-bit length, then length-prefixed fields (see #encode in launch.ts).
#   3. Own mount namespace: a /tmp and /dev/shm with a size, and the code bound over its name.
#   4. All capabilities go, the seccomp filter comes. "started" is written. Fork; the child sets its limits, executes.
#   5. When the program ends everything else in the namespace is killed and reaped, so that the times are complete;
#      "exit CODE …" or "signal N …" is written. Process 1 ends last, and the kernel would kill whatever was left.
#
# Any failure before step 5 is written as "error TEXT" and is the sandbox's, never the program's; "no_place" says that
# the file on which the code was to be mounted is gone, by another run's doing.
use strict;

# asm/unistd_64.h; asm-generic/unistd.h
my %NR = (
  x86_64  => { prctl => 157, capset => 126, unshare => 272, mount => 165, umount2 => 166, openat2 => 437,
               setsid => 112, prlimit64 => 302, getrusage => 98, close_range => 436 },
  aarch64 => { prctl => 167, capset => 91, unshare => 97, mount => 40, umount2 => 39, openat2 => 437,
               setsid => 157, prlimit64 => 261, getrusage => 165, close_range => 436 },
);
my ($arch) = @ARGV;
my $nr = $NR{$arch};

open(my $control, '+<&=', 3) or exit 1;
binmode $control;

sub tell_runner { my $line = "$_[0]\n"; syswrite($control, $line) }
sub no_place { tell_runner('no_place'); exit 1 }
sub fail { tell_runner("error $_[0]"); exit 1 }
# Perl passes a number as a number and a string as a pointer: arguments keep the type they were written with.
sub sys { my $name = shift; my $r = syscall($nr->{$name}, @_); fail("$name: $!") if $r == -1; $r }
sub take { my ($n) = @_; my $b = ''; while (length $b < $n) { sysread($control, $b, $n - length $b, length $b) or exit 1 } $b }

fail("no system call numbers for $arch") unless $nr;
sys('close_range', 4, 0xffffffff, 0);                # whatever the server itself was started with
sys('prctl', 4, 0, 0, 0, 0);                         # PR_SET_DUMPABLE
tell_runner('hello');

my ($workspace, $shown, $stdin, $script, $code, $tmp_bytes, $limits, $filter, $env, $argv) =
  unpack('(N/a*)*', take(unpack 'N', take(4)));

# A name is only ever opened, never resolved again: no link is followed, and what was opened is what is mounted on.
sub mount_tmpfs {
  my ($where, $bytes) = @_;
  # An inode costs about 1 KiB of kernel memory and no byte of `size`.
  my ($type, $data) = ('tmpfs', "size=$bytes,nr_inodes=" . (1024 + int($bytes / 16384)) . ',mode=1777');
  sys('mount', $type, $where, $type, 6, $data);      # MS_NOSUID | MS_NODEV
}
my ($tmp, $shm) = ('/tmp', '/dev/shm');
sys('unshare', 0x20000);                             # CLONE_NEWNS
my %open;                                            # path => directory handle, of what the run is shown
for my $path ($workspace, unpack '(N/a*)*', $shown) {
  opendir($open{$path}, $path) or fail("open $path: $!");
}
my $none = '';
if ($script ne '') {
  mount_tmpfs($tmp, length($code) + 65536);
  my $source = '/tmp/code';
  open(my $file, '>:raw', $source) or fail("open of the code: $!");
  print $file $code and close $file or fail("write of the code: $!");
  # O_PATH | O_NOFOLLOW | O_CLOEXEC; RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
  my $how = pack 'QQQ', 010000000 | ($arch eq 'aarch64' ? 0100000 : 0400000) | 02000000, 0, 0x08 | 0x04 | 0x02;
  my $fd = syscall($nr->{openat2}, fileno $open{$workspace}, $script, $how, 24);
  no_place() if $fd == -1;
  my $target = "/proc/self/fd/$fd";
  # Gone, swapped for something else, or unlinked since it was opened (ENOENT of mount): the runner makes another.
  -f $target && syscall($nr->{mount}, $source, $target, $none, 4096, $none) != -1 or no_place(); # MS_BIND
  sys('umount2', $tmp, 2);                            # MNT_DETACH: the code stays, at its one place
}
mount_tmpfs($_, $tmp_bytes) for $tmp, $shm;
for my $hidden (grep { m{^(?:/tmp|/dev/shm)/} } keys %open) { # bound again, the code with it
  my $path = '';
  mkdir $path .= "/$_" for grep { $_ ne '' } split m{/}, $hidden;
  my $source = '/proc/self/fd/' . fileno $open{$hidden};
  sys('mount', $source, $hidden, $none, 4096 | 16384, $none); # MS_BIND | MS_REC
}
if ($stdin eq 'null') { open(STDIN, '<', '/dev/null') or fail("open /dev/null: $!") }
chdir $workspace or fail("chdir $workspace: $!");

sys('prctl', 24, $_, 0, 0, 0) for 8, 21;             # PR_CAPBSET_DROP: CAP_SETPCAP, CAP_SYS_ADMIN, all that bwrap left
my ($header, $nothing) = (pack('LL', 0x20080522, 0), pack('L6', 0, 0, 0, 0, 0, 0));
sys('capset', $header, $nothing);                    # permitted, effective, inheritable; ambient follows
my $program = pack 'Sx6P', length($filter) / 8, $filter;
sys('prctl', 22, 2, $program, 0, 0);                 # PR_SET_SECCOMP, SECCOMP_MODE_FILTER

tell_runner('started');
my $child = fork // fail("fork: $!");
if ($child == 0) {
  sys('setsid');
  umask 022;
  for (split /,/, $limits) {
    my ($resource, $soft, $hard) = split /:/;
    my $rlimit = pack 'QQ', $soft, $hard;
    sys('prlimit64', 0, $resource + 0, $rlimit, 0);
  }
  %ENV = map { split /=/, $_, 2 } split /\0/, $env;
  my @argv = unpack '(N/a*)*', $argv;
  exec { $argv[0] } @argv;
  my $missing = $! == 2;                              # ENOENT
  syswrite STDERR, $missing ? "nox: command not found: $argv[0]\n" : "nox: cannot execute $argv[0]: $!\n";
  exit($missing ? 127 : 126);                         # as sh(1) does
}

my $status;
while ((my $pid = wait) != -1) {
  next if $pid != $child;
  $status = $?;
  kill 9, -1;
}
my $usage = "\0" x 144;
syscall($nr->{getrusage}, -1, $usage);                # RUSAGE_CHILDREN
my ($user_s, $user_us, $sys_s, $sys_us, $max_rss) = unpack 'q5', $usage;
my $end = $status & 127 ? 'signal ' . ($status & 127) : 'exit ' . ($status >> 8);
tell_runner("$end $user_s.${\sprintf '%06d', $user_us} $sys_s.${\sprintf '%06d', $sys_us} $max_rss");

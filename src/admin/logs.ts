/** Rotation of the audit file by Debian's logrotate. */

export interface LogRotation {
  readonly file: string;
  /** Whose directory it is. */
  readonly user: string;
  readonly group: string;
}

/**
 * The text of /etc/logrotate.d/nox.
 *
 * `nocreate`: the gateway makes the new file itself at its next line (src/gateway/audit-file.ts). If both could make
 * it, logrotate would set one that it finds aside under a name that no later rotation knows.
 */
export function logrotateText({ file, user, group }: LogRotation): string {
  return `# Nox, audit file. Renamed, never copied: no line is lost, and no service is told.
"${file}" {
    # The directory is the gateway's: root must not follow what it might put there.
    su ${user} ${group}
    weekly
    maxsize 100M
    rotate 26
    missingok
    notifempty
    nocreate
    compress
    # A line may still be under way to the file that has just been renamed.
    delaycompress
    nocopytruncate
    nosharedscripts
}
`;
}

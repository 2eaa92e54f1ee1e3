// The release of this plugin: the project's version.
import project from '../../package.json' with { type: 'json' };

export const RELEASE: string = project.version;

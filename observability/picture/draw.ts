// Draws the pictures of the dashboards in the documentation from what a lab migration gave (test/ship/lab-migration.ship.test.ts writes it
// to build/dashboards):
//   node observability/picture/draw.ts
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { dashboards } from '../dashboards/grafana.ts';
import type { DashboardData } from './panel-data.ts';
import { drawDashboard } from './picture.ts';

const root = path.resolve(import.meta.dirname, '../..');
export const dataFile = (name: string) => path.join(root, 'build', 'dashboards', `${name}.json`);
export const pictureFile = (name: string) => path.join(root, 'docs', 'images', `${name}.svg`);

/** No data: the test has not run. */
export class PictureDataError extends Error {
  readonly code = 'NASMIG_PICTURE_DATA';

  constructor(file: string) {
    super(`${file} is not there; run make test-ship first, which writes it during a lab migration`);
    this.name = 'PictureDataError';
  }
}

if (import.meta.main) {
  for (const dashboard of dashboards) {
    const file = dataFile(dashboard.name);
    const read = await readFile(file, 'utf8').catch(() => {
      throw new PictureDataError(file);
    });
    await mkdir(path.dirname(pictureFile(dashboard.name)), { recursive: true });
    await writeFile(pictureFile(dashboard.name), drawDashboard(dashboard, JSON.parse(read) as DashboardData));
    console.log(path.relative(root, pictureFile(dashboard.name)));
  }
}
